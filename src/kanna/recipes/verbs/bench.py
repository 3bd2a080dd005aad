"""`bench` as a step: size, memory and speed on this machine; its figures are of the first file."""

from __future__ import annotations

from kanna.recipes.verbs.base import MODEL, TEXT, StepVerb, at, kinds, loaded

VERB = StepVerb(
    inputs={"paths": kinds(MODEL), "draft": kinds(MODEL), "draft_prompts": kinds(TEXT)},
    figures={
        name: at("rows", 0, name)
        for name in (
            "file_bytes",
            "load_s",
            "ttft_s",
            "prompt_tps",
            "gen_tps",
            "peak_bytes",
            "joules_per_token",
        )
    },
    measures=True,
    own=frozenset({"encodings", "export", "format"}),
    words=frozenset({"mtp"}),
    runs=True,
    memory=loaded(1.2),
)

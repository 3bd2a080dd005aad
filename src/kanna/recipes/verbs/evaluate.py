"""`evaluate` as a step: how close an artefact is to its source."""

from __future__ import annotations

from kanna.recipes.verbs.base import MODEL, TEXT, StepVerb, at, kinds, loaded

VERB = StepVerb(
    inputs={"artefact": kinds(MODEL), "reference": kinds(MODEL), "text": kinds(TEXT)},
    figures={"kv_kl": at("caches", 0, "depths", -1, "kl")}
    | {
        name: at(name)
        for name in (
            "kl_mean",
            "kl_median",
            "kl_p99",
            "kl_p999",
            "kl_max",
            "top1",
            "perplexity",
            "reference_perplexity",
            "perplexity_ratio",
            "grade",
            "task_loss",
            "positions",
        )
    },
    runs=True,
    memory=loaded(5),
)

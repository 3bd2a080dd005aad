"""`merge` as a step: a base model with adapters merged into it."""

from __future__ import annotations

from collections.abc import Mapping

from kanna.recipes.document import Value
from kanna.recipes.verbs.base import ADAPTER, MODEL, PLAN, STATISTICS, StepFile, StepVerb, at, kinds


def _out(step: str, options: Mapping[str, Value]) -> str:
    from kanna import formats  # loads every format

    format, preset = options.get("format"), options.get("preset")
    if format is None and preset is None and options.get("encoding") is None:
        return step  # a Hugging Face folder
    chosen, _ = formats.parse_preset(
        format if isinstance(format, str) else None, preset if isinstance(preset, str) else None
    )
    return step + formats.get(chosen).suffix


VERB = StepVerb(
    inputs={
        "source": kinds(MODEL),
        "adapter": kinds(ADAPTER),
        "plan": kinds(PLAN),
        "statistics": kinds(STATISTICS),
    },
    outputs={"artefact": StepFile(kind=MODEL, path=at("paths", 0), about="the file or folder")},
    figures={
        "file_bytes": at("file_bytes"),
        "bits_per_weight": at("bits_per_weight"),
        "gate": at("verify", "status"),
    },
    out=_out,
    own=frozenset({"dry_run", "overwrite"}),
)

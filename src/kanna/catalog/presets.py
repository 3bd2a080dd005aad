"""Components of the kind `presets`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from kanna.catalog.base import Component, Kind
from kanna.conversion import onnx as whole
from kanna.plan import gguf, mlx, onnx, onnx_derived

_KIND = "presets"


def _find() -> Iterator[Component]:
    for preset in gguf.PRESETS:
        facts = _facts(preset, "name", "use_case", "rules", "low") | {"rules": len(preset.rules)}
        yield _of(gguf, preset.name, preset.use_case, facts)
    for name in whole.PRESETS:
        yield _of(whole, f"onnx:{name}", whole.PRESETS[name])
    for name, summary in onnx.PRESETS.items():
        yield _of(onnx, f"onnx:{name}", summary)
    for name, derived in onnx_derived.PRESETS.items():
        yield _of(onnx_derived, f"onnx:{name}", derived.use, _facts(derived, "use"))
    for name, preset in mlx.PRESETS.items():
        yield _of(mlx, f"mlx:{name}", preset.summary, _facts(preset, "summary"))


def _of(module: Any, name: str, summary: str, facts: dict[str, Any] | None = None) -> Component:
    extra = "onnx" if name.startswith("onnx:") else ""
    summary = summary[0].upper() + summary[1:]
    return Component(
        kind=_KIND,
        name=name,
        summary=summary,
        where=f"{module.__name__}:PRESETS",
        extra=extra,
        facts=facts or {},
    )


def _facts(preset: Any, *without: str) -> dict[str, Any]:
    """Fields of a preset that say something."""
    fields = {
        f.name: getattr(preset, f.name) for f in dataclasses.fields(preset) if f.name not in without
    }
    return {
        name.replace("_", " "): value
        for name, value in fields.items()
        if value not in ("", None, False)
    }


KIND = Kind(
    summary="Presets: named plans, which encoding each matrix gets",
    about=(
        "Named by `--preset`, `--like` and in plan files of GGUF. Without a prefix they are "
        "GGUF's, those of llama.cpp."
    ),
    find=_find,
)

"""An adapter as mlx-lm loads it: both matrices transposed, one scale, one rank."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from kanna import families
from kanna.adapters.base import FactorTensor, Transposed
from kanna.adapters.mlx_lm import LAYOUT
from kanna.conversion.base import WriteOptions
from kanna.conversion.lone_adapter import AdapterWriter, PlacedAdapter
from kanna.errors import UnsupportedError
from kanna.formats import mlx, safetensors
from kanna.formats.stream import WriteResult
from kanna.plan import TensorPlan
from kanna.sources.adapter import CONFIG


def plan(placed: PlacedAdapter) -> list[TensorPlan]:
    """Both matrices of every change, scaled for the one scale of the folder."""
    ranks = {part.low_rank.rank for part in placed.parts}
    outside = [p for p in placed.parts if ".layers." not in p.hf_name]
    if len(ranks) > 1 or outside:
        what = f"a change of {outside[0].hf_name}" if outside else f"the ranks {sorted(ranks)}"
        raise UnsupportedError(
            f"{placed.adapter.given} has {what}",
            expected="one rank in all layers, and nothing outside them: mlx-lm takes no other",
            todo=f"merge it: kanna merge {placed.source.given} {placed.adapter.given} -o merged/ "
            "--format mlx",
        )
    _require_alike(placed)
    scale = _scale(placed)
    entries: list[TensorPlan] = []
    for part in placed.parts:
        left, right = part.low_rank.tensors(part.hf_name)
        ratio = part.low_rank.scale / scale
        entries += [
            TensorPlan(
                name=f"{part.hf_name}.{name}",
                tensor=FactorTensor(name, Transposed(inner), factor),
                encoding=placed.encoding,
                method="nearest",
            )
            for name, inner, factor in (("lora_a", right, 1.0), ("lora_b", left, ratio))
        ]
    return entries


def _require_alike(placed: PlacedAdapter) -> None:
    """Raise UnsupportedError where mlx-lm names or holds a changed matrix in its own way."""
    layout = mlx.layout.of(families.hf_config(placed.model))
    weights = [f"{part.hf_name}.weight" for part in placed.parts]
    other = weights if layout.folded else [w for w in weights if layout.name(w) != w]
    if other:
        raise UnsupportedError(
            f"{placed.adapter.given} has a change of {other[0]}",
            expected="changes of matrices that mlx-lm holds as the checkpoint does",
            todo=f"merge it: kanna merge {placed.source.given} {placed.adapter.given} -o merged/ "
            "--format mlx",
        )


def _scale(placed: PlacedAdapter) -> float:
    return placed.parts[0].low_rank.scale or 1.0


def write(
    placed: PlacedAdapter, entries: Sequence[TensorPlan], out: Path, options: WriteOptions
) -> WriteResult:
    """Write the folder."""
    layers = placed.model.whole("{arch}.block_count", least=1)
    keys = sorted({part.hf_name.split(".layers.")[1].partition(".")[2] for part in placed.parts})
    config = {
        "fine_tune_type": "lora",
        "model": placed.adapter.base,
        "num_layers": layers,
        "lora_parameters": {
            "rank": placed.parts[0].low_rank.rank,
            "scale": _scale(placed),
            "dropout": 0.0,
            "keys": keys,
        },
    }
    return safetensors.write_folder(
        out,
        tensors=entries,
        files={CONFIG: (json.dumps(config, indent=2) + "\n").encode()},
        threads=options.threads,
        progress=options.progress,
        overwrite=options.overwrite,
        maker="mlx",
        single=LAYOUT.weights,
    )


def check(out: Path, needed: int, overwrite: bool) -> None:
    """Raise OutputError when the folder cannot be written."""
    safetensors.check_folder(out, overwrite=overwrite, needed=needed)


WRITER = AdapterWriter(plan=plan, check=check, write=write)

"""An adapter as a GGUF for llama.cpp.

llama.cpp reads one alpha for the file, and multiplies each change by alpha / rank: where a module
has another strength (rsLoRA, patterns), the ratio goes into its second matrix.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kanna import __version__, provenance
from kanna._util.digest import sha256
from kanna.adapters.base import FactorTensor, Transposed
from kanna.conversion.base import WriteOptions
from kanna.conversion.lone_adapter import AdapterPart, AdapterWriter, PlacedAdapter
from kanna.formats import gguf
from kanna.formats.stream import WriteResult, check_output
from kanna.model import MetaValue, Tensor, f32, string
from kanna.plan import TensorPlan


def plan(placed: PlacedAdapter) -> list[TensorPlan]:
    """Both matrices of every change, scaled for the one alpha of the file."""
    alpha = _alpha(placed.parts)
    entries: list[TensorPlan] = []
    for part in placed.parts:
        left, right = placed.factors(part)
        ratio = part.alpha / alpha
        pair: tuple[Tensor, Tensor] = (right, FactorTensor("b", left, ratio))
        if part.low_rank.embedding:  # rows of the first are looked up
            pair = (left, FactorTensor("b", Transposed(right), ratio))
        entries += [
            TensorPlan(
                name=f"{part.gguf_name}.{name}",
                tensor=tensor,
                encoding=placed.encoding,
                method="nearest",
            )
            for name, tensor in zip(("lora_a", "lora_b"), pair, strict=True)
        ]
    return entries


def _alpha(parts: Sequence[AdapterPart]) -> float:
    """The alpha that most parts have, as a float32; 0 would mean none."""
    [(alpha, _)] = Counter(float(np.float32(part.alpha)) for part in parts).most_common(1)
    return alpha or 1.0


def metadata(placed: PlacedAdapter) -> dict[str, MetaValue]:
    """The keys of the file."""
    hashes = {path.name: sha256(path) for path in placed.adapter.weight_files}
    base = placed.adapter.base or placed.source.name
    return {
        "general.type": string("adapter"),
        "general.architecture": string(placed.model.family),
        "general.name": string(placed.adapter.path.absolute().name),
        "adapter.type": string("lora"),
        "adapter.lora.alpha": f32(_alpha(placed.parts)),
        "kanna.version": string(__version__),
        "kanna.command": string(placed.command),
        "kanna.adapter.base": string(base),
        provenance.SOURCE_HASHES: string(json.dumps(hashes, separators=(",", ":"))),
    }


def write(
    placed: PlacedAdapter, entries: Sequence[TensorPlan], out: Path, options: WriteOptions
) -> WriteResult:
    """Write the file."""
    return gguf.write(
        out,
        metadata=metadata(placed),
        tensors=entries,
        threads=options.threads,
        progress=options.progress,
        overwrite=options.overwrite,
    )


def check(out: Path, needed: int, overwrite: bool) -> None:
    """Raise OutputError when the file cannot be written."""
    check_output([out], overwrite=overwrite, needed=needed)


WRITER = AdapterWriter(plan=plan, check=check, write=write, suffix=".gguf")

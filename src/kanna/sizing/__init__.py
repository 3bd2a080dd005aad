"""Which presets fit: exact file sizes from headers, memory at a context length, estimated speed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kanna import families, formats, provenance
from kanna._util.progress import Progress
from kanna._util.units import format_size
from kanna.errors import UsageError
from kanna.formats.base import Format
from kanna.formats.memory import buffer_bytes, cache_bytes
from kanna.hardware.memory import memory as machine_memory
from kanna.model import Model
from kanna.sizing.rows import FitRow, rows
from kanna.sources import Source, open_source

__all__ = ["FitResult", "FitRow", "buffer_bytes", "cache_bytes", "fit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """What fits.

    Attributes:
        rows: Every preset, the largest first.
        recommended: The most precise quantized preset that fits, or None.
        advice: The recommendation as a sentence, with its reason.
    """

    name: str
    memory: int
    context: int
    rows: list[FitRow]
    recommended: str | None
    advice: str
    notes: list[str] = field(default_factory=list[str])

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return asdict(self)


def fit(
    source: str | Path | Source,
    *,
    memory: int | None = None,
    context: int = 4096,
    format: str = formats.DEFAULT,
    revision: str | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> FitResult:
    """Show which presets of `source` fit into `memory` bytes at `context` tokens.

    Reads headers only; of a hub id no weight is fetched. File sizes
    are those `convert` writes, to the byte; of ONNX folders, what the weights take.

    Args:
        source: What would be converted.
        memory: Bytes; None: what is free on this machine.
        context: Tokens of context that the cache must hold.
        format: Whose presets they are.
        revision: Branch, tag or commit of a model on the hub.
        offline: Use only what is on this machine.
        progress: Where progress is reported; None: nowhere.
    """
    if format not in formats.runnable():
        raise UsageError(f"no presets of {format!r}", expected=", ".join(formats.runnable()))
    chosen = formats.get(format)
    if context < 1:
        raise UsageError(f"a context of {context} tokens", expected="1 or more")
    opened = open_source(
        source, revision=revision, offline=offline, weights=False, progress=progress
    )
    model = families.load_model(opened)
    limit = memory if memory is not None else _free()
    fitted = sorted(rows(opened, model, chosen, limit, context), key=lambda r: -r.file_bytes)
    overhead = fitted[0].kv_bytes + fitted[0].buffer_bytes
    notes = model.notes + _notes(model, context, overhead, limit)
    if chosen.size_note:
        notes.append(chosen.size_note)
    recommended, advice = _recommend(fitted, model, opened, chosen, limit - overhead)
    return FitResult(
        name=model.name,
        memory=limit,
        context=context,
        rows=fitted,
        recommended=recommended,
        advice=advice,
        notes=notes,
    )


def _free() -> int:
    return machine_memory().available


def _recommend(
    fitted: list[FitRow], model: Model, source: Source, format: Format, limit: int
) -> tuple[str | None, str]:
    """The most precise quantized preset that fits, and why.

    A quantized source that fits is best left as it is.
    """
    special = {formats.qualified(format.name, p.name) for p in format.presets.values() if p.special}
    able = [r for r in fitted if r.fits and r.bits_per_weight <= 9 and r.preset not in special]
    more = ""
    if source.gguf is not None and provenance.quantized_source(model):
        exact_name = formats.qualified(format.name, format.exact_preset)
        exact = next((r for r in able if r.preset == exact_name), None)
        if exact and exact.file_bytes <= 1.1 * source.gguf.num_bytes:
            return exact.preset, f"{exact.preset}: the blocks of the source as they are"
        if source.gguf.num_bytes <= limit and format.opens(source.path):
            advice = (
                "keep the source as it is: it is quantized already, it fits, and no preset of it "
                "can be better"
            )
            return None, advice
        if smaller := [r for r in able if r.file_bytes < source.gguf.num_bytes]:
            able, more = smaller, " and is smaller than the source"
    if not able:
        return None, "nothing fits: raise --memory, lower --context, or take a smaller model"
    best = max(able, key=lambda r: (r.bits_per_weight, -r.file_bytes))
    return best.preset, f"{best.preset}: the most precise quantized preset that fits{more}"


def _notes(model: Model, context: int, overhead: int, limit: int) -> list[str]:
    notes: list[str] = []
    trained = int(model.meta("{arch}.context_length", 0) or 0)
    if trained and context > trained:
        notes.append(
            f"the model was trained for {trained} tokens of context, {context} are asked for"
        )
    if overhead > limit:
        notes.append(f"the cache and buffers alone take {format_size(overhead)}: lower --context")
    if any(".ssm_" in name for name in model.tensors):
        notes.append("this model has recurrent layers, whose state is not counted here")
    return notes

"""Which presets fit: exact file sizes from headers, memory at a context length, estimated speed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from kanna import families, provenance
from kanna._util.progress import Progress
from kanna._util.units import format_size
from kanna.errors import UsageError
from kanna.hardware.memory import memory as machine_memory
from kanna.model import Model
from kanna.sizing.memory import buffer_bytes, cache_bytes
from kanna.sizing.rows import FitRow
from kanna.sources import Source, open_source

__all__ = ["FitResult", "FitRow", "buffer_bytes", "cache_bytes", "fit"]

FORMATS = ("gguf", "onnx", "mlx")
# Presets that only suit networks trained for them.
SPECIAL = {"MXFP4_MOE", "Q2_0", "TQ2_0", "TQ1_0", "Q1_0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """rows: largest first; recommended: the most precise quantized preset that fits, or None.

    Attributes:
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
        return asdict(self)


def fit(
    source: str | Path | Source,
    *,
    memory: int | None = None,
    context: int = 4096,
    format: str = "gguf",
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
        format: Whose presets they are: gguf, onnx or mlx.
        revision: Branch, tag or commit of a model on the hub.
        offline: Use only what is on this machine.
        progress: Where progress is reported; None: nowhere.
    """
    if format not in FORMATS:
        raise UsageError(f"no presets of {format!r}", expected=", ".join(FORMATS))
    if context < 1:
        raise UsageError(f"a context of {context} tokens", expected="1 or more")
    opened = open_source(
        source, revision=revision, offline=offline, weights=False, progress=progress
    )
    model = families.load_model(opened)
    limit = memory if memory is not None else _free()
    fitting: Any = import_module(f"{__name__}.{'gguf' if format == 'gguf' else 'folders'}")
    rows: list[FitRow] = fitting.rows(opened, model, format, limit, context)
    rows.sort(key=lambda r: -r.file_bytes)
    overhead = rows[0].kv_bytes + rows[0].buffer_bytes
    notes = model.notes + _notes(model, context, overhead, limit)
    if format == "onnx":
        notes.append("file sizes are of weights and scales; the graph and its tables come on top")
    recommended, advice = _recommend(rows, model, opened, format, limit - overhead)
    return FitResult(
        name=model.name,
        memory=limit,
        context=context,
        rows=rows,
        recommended=recommended,
        advice=advice,
        notes=notes,
    )


def _free() -> int:
    return machine_memory().available


def _recommend(
    rows: list[FitRow], model: Model, source: Source, format: str, room: int
) -> tuple[str | None, str]:
    """The most precise quantized preset that fits.

    A quantized source that fits is best left as it is.
    """
    fitting, more = (
        [r for r in rows if r.fits and r.bits_per_weight <= 9 and r.preset not in SPECIAL],
        "",
    )
    if source.gguf is not None and provenance.quantized_source(model):
        own = next((r for r in fitting if r.preset == "mlx:exact"), None)
        if own and own.file_bytes <= 1.1 * source.gguf.num_bytes:
            return own.preset, f"{own.preset}: the blocks of the source as they are"
        if source.gguf.num_bytes <= room and format == "gguf":
            return (
                None,
                "keep the source as it is: it is quantized already, it fits, and no preset of it can be better",
            )
        if smaller := [r for r in fitting if r.file_bytes < source.gguf.num_bytes]:
            fitting, more = smaller, " and is smaller than the source"
    if not fitting:
        return None, "nothing fits: raise --memory, lower --context, or take a smaller model"
    best = max(fitting, key=lambda r: (r.bits_per_weight, -r.file_bytes))
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

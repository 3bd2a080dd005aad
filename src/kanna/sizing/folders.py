"""Which presets of MLX and ONNX fit.

The sizes their conversions plan, memory by the arithmetic of their runtimes.
"""

from __future__ import annotations

from typing import Any

from kanna._util.units import precision_class
from kanna.conversion import convert
from kanna.conversion.mlx import number_of
from kanna.errors import KannaError, UnsupportedError
from kanna.hardware import estimate_tps
from kanna.model import Model
from kanna.plan import mlx, onnx, onnx_derived
from kanna.sizing.memory import cache_bytes, feed_forward, vocabulary
from kanna.sizing.rows import FitRow
from kanna.sources import Source

_NUMBER = {"f32": 4, "f16": 2, "bf16": 2}
# Tokens of a prompt that are read at once, as kanna's own engines do.
_STEP = {"mlx": 512, "onnx": 256}


def uses(format: str) -> dict[str, str]:
    """What every preset of a format is for."""
    if format == "mlx":
        return {name: preset.summary for name, preset in mlx.PRESETS.items()}
    from kanna.conversion.onnx import PRESETS

    return {
        **PRESETS,
        **{name: one.use for name, one in onnx_derived.PRESETS.items()},
        **onnx.PRESETS,
    }


def rows(source: Source, model: Model, format: str, limit: int, context: int) -> list[FitRow]:
    """A row per preset that can hold the model; raises what stands in the way of all of them."""
    found: list[FitRow] = []
    refused: KannaError | None = None
    size = 4 if format == "onnx" else _NUMBER[number_of(model)]  # our graphs compute in float32
    cache, buffers = cache_bytes(model, context, size), buffer_bytes(model, format, context, size)
    for name, use in uses(format).items():
        try:
            made = convert(source, preset=f"{format}:{name}", dry_run=True)
        except KannaError as error:
            refused = refused or error
            continue
        needed = made.file_bytes + cache + buffers
        found.append(
            FitRow(
                preset=f"{format}:{name}",
                use_case=use[0].lower() + use[1:],
                file_bytes=made.file_bytes,
                bits_per_weight=made.bits_per_weight,
                nominal_bits=made.nominal_bits,
                precision_class=precision_class(made.bits_per_weight),
                weight_bytes=made.file_bytes,
                kv_bytes=cache,
                buffer_bytes=buffers,
                memory_bytes=needed,
                tokens_per_second=_speed(model, made.tensors, made.file_bytes),
                substitutions=len(made.substitutions),
                fits=needed <= limit,
            )
        )
    if not found:
        raise refused or UnsupportedError(f"no preset of {format} holds this model")
    return found


def buffer_bytes(model: Model, format: str, context: int, size: int) -> int:
    """Bytes of what a piece of prompt takes.

    Activations, scores of attention, its last logits in float32.
    """
    hidden = int(model.meta("{arch}.embedding_length", 0))
    heads = _first(model.meta("{arch}.attention.head_count", 0))
    piece = min(_STEP[format], context)
    activations = piece * (3 * hidden + 2 * feed_forward(model)) + heads * piece * context
    return size * activations + 4 * vocabulary(model)


def _first(value: Any) -> int:
    return int(value) if isinstance(value, (int, float)) else int(value[0])


def _speed(model: Model, tensors: list[dict[str, Any]], file_bytes: int) -> float:
    """Estimated tokens per second.

    Each token reads every weight but the rows of an embedding that is no head.
    """
    tied = "output.weight" not in model.tensors
    embedding = model.tensors["token_embd.weight"]
    apart = (
        0
        if tied
        else next(
            (
                int(t["bytes"])
                for t in tensors
                if tuple(t["shape"]) == tuple(embedding.shape) and "embed" in t["name"]
            ),
            0,
        )
    )
    return estimate_tps(file_bytes - apart, model.num_parameters)

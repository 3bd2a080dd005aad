"""A row of the table for every preset of a format that can hold a model."""

from __future__ import annotations

from dataclasses import dataclass

from kanna import formats
from kanna._util.units import precision_class
from kanna.conversion import sizes
from kanna.conversion.base import SizedPlan
from kanna.errors import KannaError, UnsupportedError, UsageError
from kanna.formats.base import Format
from kanna.hardware import estimate_tps
from kanna.model import Model, num_weights
from kanna.sources import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRow:
    """One preset. Sizes in bytes.

    Memory = weights + cache + buffers; tokens_per_second is an estimate. Weights are without
    on_demand_bytes: tables whose rows the runtime reads from the file as they are asked for.
    """

    preset: str
    use_case: str
    file_bytes: int
    bits_per_weight: float
    nominal_bits: float
    precision_class: str
    weight_bytes: int
    kv_bytes: int
    buffer_bytes: int
    memory_bytes: int
    tokens_per_second: float
    substitutions: int
    fits: bool
    on_demand_bytes: int = 0


def rows(source: Source, model: Model, format: Format, limit: int, context: int) -> list[FitRow]:
    """A row per preset that can hold the model, in the order of the format.

    Args:
        source: What would be converted.
        model: The source as tensors with roles.
        format: Whose presets they are.
        limit: Bytes of memory.
        context: Tokens of the key-value cache.

    Raises:
        KannaError: What stands in the way of all of them.
    """
    if format.memory is None:
        raise UsageError(f"nothing here runs {format.title}")
    cache = format.memory.cache(model, context)
    buffers = format.memory.buffers(model, context)
    known = sizes(format.name, source, model)
    fitted: list[FitRow] = []
    refused: KannaError | None = None
    for name, preset in format.presets.items():
        if not preset.suits(model):
            continue
        try:
            sized = known.sized(known.preset(name))
        except KannaError as error:
            refused = refused or error
            continue
        resolved = sized.resolved
        sizes_of = {entry.name: sized.bytes_of(entry) for entry in sized.entries}
        left = sum(n for at, n in sizes_of.items() if format.memory.on_demand(at, n))
        weights = sized.weight_bytes - left
        needed = weights + cache + buffers
        fitted.append(
            FitRow(
                preset=formats.qualified(format.name, name),
                use_case=preset.summary[0].lower() + preset.summary[1:],
                file_bytes=sized.file_bytes,
                bits_per_weight=resolved.bits,
                nominal_bits=resolved.nominal_bits,
                precision_class=precision_class(resolved.bits),
                weight_bytes=weights,
                kv_bytes=cache,
                buffer_bytes=buffers,
                memory_bytes=needed,
                tokens_per_second=_speed(model, sized),
                substitutions=len(resolved.substitutions),
                fits=needed <= limit,
                on_demand_bytes=left,
            )
        )
    if not fitted:
        raise refused or UnsupportedError(f"no preset of {format.title} holds this model")
    return fitted


def _speed(model: Model, sized: SizedPlan) -> float:
    """Estimated tokens per second at a short context.

    Each token reads every weight but the rows of an embedding that is no head, and of the experts
    those it is sent to.
    """
    tied = "output.weight" not in model.tensors
    experts = model.whole("{arch}.expert_count", 0)
    used = model.whole("{arch}.expert_used_count", 0)
    bytes_read = weights = 0.0
    for entry in sized.entries:
        if not tied and ("token_embd" in entry.name or "embed_tokens" in entry.name):
            continue
        share = used / experts if experts and len(entry.tensor.shape) == 3 else 1
        bytes_read += sized.bytes_of(entry) * share
        weights += num_weights(entry.tensor) * share
    return estimate_tps(bytes_read, weights)

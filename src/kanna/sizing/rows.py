"""A row of the table for every preset of a format that can hold a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from kanna import formats
from kanna._util.units import precision_class
from kanna.conversion import sizes
from kanna.conversion.base import SizedPlan
from kanna.errors import KannaError, UnsupportedError, UsageError
from kanna.families import hf_names
from kanna.formats.base import Format
from kanna.hardware import estimate_tps
from kanna.hardware.encoding_speed import EncodingSpeeds
from kanna.hardware.mask import Outside, outside
from kanna.hardware.roofline import PredictedSpeed, Traffic, predict
from kanna.hardware.targets import TargetChoice
from kanna.hardware.token_work import matrix_work, token_work
from kanna.model import Model
from kanna.sizing.closeness import expected_kl
from kanna.sources import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRow:
    """One preset. Sizes in bytes.

    Memory = weights + cache + buffers + runtime; tokens_per_second is an estimate, 0 where a
    target's profile does not tell. Weights are without on_demand_bytes: tables whose rows the
    runtime reads from the file as they are asked for. What the runtime has beside: copies of
    weights in the order that its kernels read, its tokenizer, its code.

    Attributes:
        prompt_tokens_per_second: Tokens that are read; None: not estimated.
        speed_error: Relative error of both; None: not known.
        outside: Tensors that the target's backend is not known to multiply; no such preset fits.
        expected_kl: Mean KL divergence in nats that its bits let expect; None: not known.
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
    runtime_bytes: int = 0
    on_demand_bytes: int = 0
    prompt_tokens_per_second: float | None = None
    speed_error: float | None = None
    outside: int = 0
    expected_kl: float | None = None


def rows(
    source: Source,
    model: Model,
    format: Format,
    limit: int,
    context: int,
    *,
    target: TargetChoice | None = None,
    speeds: EncodingSpeeds | None = None,
) -> list[FitRow]:
    """A row per preset that can hold the model, in the order of the format.

    Args:
        source: What would be converted.
        model: The source as tensors with roles.
        format: Whose presets they are.
        limit: Bytes of memory.
        context: Tokens of the key-value cache.
        target: The device; None: this machine.
        speeds: What encodings cost, where it was measured.

    Raises:
        KannaError: What stands in the way of all of them.
    """
    if format.memory is None:
        raise UsageError(f"nothing here runs {format.title}")
    buffers, how_fast = format.memory.buffers(model, context), _speeds(model, target, speeds)
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
        row = _row(formats.qualified(format.name, name), preset.summary, sized, target, how_fast)
        stored = [(e.name, e.encoding.name, sized.bytes_of(e)) for e in sized.entries]
        left = sum(n for at, _, n in stored if format.memory.on_demand(at, n))
        weights = sized.weight_bytes - left
        cache = format.memory.cache(model, context, {kind for _, kind, _ in stored})
        beside = format.memory.process.bytes_of(model, stored, cache + buffers)
        needed = weights + cache + buffers + beside
        fitted.append(
            replace(
                row,
                kv_bytes=cache,
                buffer_bytes=buffers,
                memory_bytes=needed,
                weight_bytes=weights,
                runtime_bytes=beside,
                fits=needed <= limit and not row.outside,
                on_demand_bytes=left,
            )
        )
    if not fitted:
        raise refused or UnsupportedError(f"no preset of {format.title} holds this model")
    return fitted


def _row(
    name: str,
    summary: str,
    sized: SizedPlan,
    target: TargetChoice | None,
    how_fast: Callable[[SizedPlan], PredictedSpeed],
) -> FitRow:
    """The row of a preset before its cache and buffers are known."""
    resolved, speed = sized.resolved, how_fast(sized)
    return FitRow(
        preset=name,
        use_case=summary[0].lower() + summary[1:],
        file_bytes=sized.file_bytes,
        bits_per_weight=resolved.bits,
        nominal_bits=resolved.nominal_bits,
        precision_class=precision_class(resolved.bits),
        weight_bytes=sized.weight_bytes,
        kv_bytes=0,
        buffer_bytes=0,
        memory_bytes=sized.weight_bytes,
        tokens_per_second=speed.generation or 0.0,
        substitutions=len(resolved.substitutions),
        fits=False,
        prompt_tokens_per_second=speed.prompt,
        speed_error=speed.error,
        outside=len(outside_of(target, sized)),
        expected_kl=expected_kl(sized),
    )


def outside_of(target: TargetChoice | None, sized: SizedPlan) -> list[Outside]:
    """The tensors of a plan that the target's backend does not multiply.

    Args:
        target: The device; None: this machine, which multiplies all of them.
        sized: The plan.
    """
    if target is None:
        return []
    entries = ((e.name, e.encoding.name, e.tensor.shape) for e in sized.entries)
    return outside(target, entries)


def _speeds(
    model: Model, target: TargetChoice | None, speeds: EncodingSpeeds | None
) -> Callable[[SizedPlan], PredictedSpeed]:
    """How fast a plan is: by costs that were measured, else by the roofline or an estimate."""
    return lambda sized: _measured(model, sized, speeds) or _speed(model, sized, target)


def _measured(
    model: Model, sized: SizedPlan, speeds: EncodingSpeeds | None
) -> PredictedSpeed | None:
    """Tokens per second by costs that were measured, of other encodings by their bytes."""
    if speeds is None:
        return None
    # A folder has the names of Hugging Face; a graph that kanna writes those of a GGUF.
    ours = {theirs: own for own, theirs in hf_names(model).items()}
    chosen = {ours.get(e.name, e.name): e.encoding.name for e in sized.entries}
    work = matrix_work(model)
    held = {n: chosen[n] for n in work if n in chosen}
    predicted = speeds.with_roofline({*held.values()}).predict((held[n], work[n]) for n in held)
    return None if predicted.generation is None else predicted


def _speed(model: Model, sized: SizedPlan, target: TargetChoice | None) -> PredictedSpeed:
    """Estimated tokens per second at a short context."""
    traffic = traffic_of(model, sized)
    if target is not None:
        return predict(target, traffic)
    here = estimate_tps(traffic.bytes_read, traffic.weights)
    return PredictedSpeed(generation=here, prompt=None, error=None)


def traffic_of(model: Model, sized: SizedPlan | None = None) -> Traffic:
    """What a token reads and multiplies.

    Each token reads every weight but the rows of an embedding that is no head, and of the experts
    those it is sent to.

    Args:
        model: The source as tensors with roles.
        sized: A plan for it; None: as it is stored.
    """
    stored = [(name, t, t.nbytes) for name, t in model.tensors.items()]
    planned = [(e.name, e.tensor, sized.bytes_of(e)) for e in sized.entries] if sized else stored
    work = token_work(model, [(name, tensor) for name, tensor, _ in planned])
    sizes = {name: nbytes for name, _, nbytes in planned}
    bytes_read = sum(sizes[name] * one.share for name, one in work.items())
    weights = sum(one.weights for one in work.values())
    head = sum(one.weights for one in work.values() if one.head)
    return Traffic(bytes_read=bytes_read, weights=weights, head=head)

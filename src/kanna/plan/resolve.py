"""Turn a preset, an encoding or a plan file into one decision per tensor."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from kanna import encodings, methods
from kanna.encodings import Encoding
from kanna.errors import PlanError
from kanna.methods.hessian import SecondMoment
from kanna.model import F32, Model, Tensor, columns, num_weights
from kanna.plan import gguf, roles
from kanna.plan.fallback import feasible
from kanna.plan.file import Plan
from kanna.plan.gguf import Place, Preset
from kanna.plan.prior import Prior, prior_of
from kanna.plan.tuning import Tuning, Vector, factors, shifts
from kanna.plan.types import Substitution, TensorPlan

UNNAMED_FILE_TYPE = 1024
"""llama.cpp's file type of a file that names none (LLAMA_FTYPE_GUESSED)."""


def _file_type(encoding: str | None) -> int:
    """llama.cpp's file type of a plan whose base is `encoding`."""
    number = encodings.get(encoding).file_type if encoding else None
    return UNNAMED_FILE_TYPE if number is None else number


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """A plan applied to a model.

    Attributes:
        entries: One per tensor, in file order.
        substitutions: Tensors that could not have what the plan meant for them.
        nominal_bits: Bits per weight if every tensor had what was meant for it.
        bits: Bits per weight of the tensors as they will be.
        tuning: SHA-256 of the plan's tuning, or None.
    """

    name: str
    file_type: int
    entries: list[TensorPlan]
    substitutions: list[Substitution]
    nominal_bits: float
    bits: float
    tuning: str | None = None


def resolve(
    model: Model,
    *,
    preset: str | None = None,
    encoding: str | None = None,
    plan: Plan | None = None,
    weights: Mapping[str, F32] | None = None,
    second_moments: Callable[[str], SecondMoment | None] | None = None,
    method: str = "search",
) -> Resolved:
    """Decide every tensor of `model`. One of preset, encoding and plan.

    instead of `gptq` Raises PlanError when a plan names no tensor or when weights do not fit the
    model.

    Args:
        weights: Importance of columns by tensor name (an imatrix), [columns] or [experts, columns].
        second_moments: Second moment of a tensor's inputs by its name; without one a tensor gets `search`.
    """
    if sum(x is not None for x in (preset, encoding, plan)) != 1:
        raise PlanError("give one of a preset, an encoding and a plan")
    if plan is None:
        preset = gguf.get(preset).name if preset else None
        encoding = encodings.get(encoding).name if encoding else None
        plan = Plan(name=preset or encoding or "", preset=preset, encoding=encoding)
    if plan.preset is None and plan.encoding is None:
        plan = plan.model_copy(update={"preset": "Q8_0"})
    chosen = gguf.get(plan.preset) if plan.preset else None
    mix = _Mix(model, chosen, bool(weights)) if chosen else None
    compiled = [(re.compile(r.pattern), r) for r in plan.rules]
    _check_weights(model, weights or {})
    entries: list[TensorPlan] = []
    substitutions: list[Substitution] = []
    nominal = 0.0
    used: set[str] = set()
    for name, tensor in model.tensors.items():
        rule = next((r for p, r in compiled if p.search(name)), None)
        how = method
        if rule is not None:
            wanted, how = encodings.get(rule.encoding), rule.method
            used.add(rule.pattern)
        elif not roles.quantizable(tensor):
            wanted = encodings.get(roles.kept(model, tensor))
        elif mix is not None:
            wanted = encodings.get(mix.choose(tensor))
        else:
            wanted = encodings.get(plan.encoding or "")
        got, reason = feasible(wanted, columns(tensor))
        if reason:
            substitutions.append(
                Substitution(name=name, wanted=wanted.name, got=got.name, reason=reason)
            )
        nominal += wanted.bits * num_weights(tensor)
        second_moment = (
            second_moments(name)
            if second_moments and got.block > 1 and methods.get(how).needs_second_moment
            else None
        )
        prior = prior_of(model, name) if not weights and how == "search" and got.block > 1 else None
        entries.append(_entry(tensor, got, how, weights or {}, second_moment, prior))
    if unused := [r.pattern for r in plan.rules if r.pattern not in used]:
        raise PlanError(
            f"the pattern {unused[0]!r} names no tensor", todo="`kanna inspect SRC` lists the names"
        )
    tuning = plan.tuned()
    if tuning is not None:
        tuning.check(model.tensors)
        entries = [_tuned(entry, tuning) for entry in entries]
    total = model.num_parameters
    return Resolved(
        name=chosen.name
        if chosen and not plan.rules and not plan.tuning
        else (plan.name or "custom"),
        file_type=chosen.file_type if chosen else _file_type(plan.encoding),
        entries=entries,
        substitutions=substitutions,
        nominal_bits=nominal / total,
        bits=8 * sum(e.nbytes for e in entries) / total,
        tuning=tuning.sha256 if tuning else None,
    )


def _tuned(entry: TensorPlan, tuning: Tuning) -> TensorPlan:
    if (vector := tuning.vectors.get(entry.name)) is not None:
        return replace(entry, tensor=Vector(entry.name, vector))
    scale, offset = tuning.scales.get(entry.name), tuning.offsets.get(entry.name)
    if scale is None and offset is None:
        return entry
    blocks = columns(entry.tensor) // entry.encoding.block
    fits = factors(entry.encoding) and scale is not None and scale.shape[1] in (1, blocks)
    if not fits or (
        offset is not None and not (shifts(entry.encoding) and offset.shape[1] == blocks)
    ):
        told = {"factors": scale, "offsets": offset}
        said = [f"{found.shape[1]} {what}" for what, found in told.items() if found is not None]
        raise PlanError(
            f"the tuning has {' and '.join(said)} in each row of {entry.name}, now {entry.encoding.label}",
            expected="the tuning of this very plan",
        )
    return replace(entry, scale=scale, offset=offset)


def _entry(
    tensor: Tensor,
    encoding: Encoding,
    method: str,
    weights: Mapping[str, F32],
    second_moment: SecondMoment | None,
    prior: Prior | None,
) -> TensorPlan:
    quantized = encoding.block > 1
    if second_moment is None and methods.get(method).needs_second_moment:
        method = "search"
    return TensorPlan(
        name=tensor.name,
        tensor=tensor,
        encoding=encoding,
        method=method if quantized else "nearest",
        weights=weights.get(tensor.name) if quantized else None,
        second_moment=second_moment,
        prior=prior,
    )


def _check_weights(model: Model, weights: Mapping[str, F32]) -> None:
    """PlanError when the imatrix was made from another model."""
    known = [n for n in weights if n in model.tensors]
    if weights and not known:
        raise PlanError(
            f"the imatrix names no tensor of this model, but {len(weights)} others such as {next(iter(weights))}",
            expected=f"an imatrix of {model.name}",
        )
    for name in known:
        have, want = weights[name].shape, columns(model.tensors[name])
        experts = model.tensors[name].shape[0] if len(model.tensors[name].shape) == 3 else 1
        if have not in ((want,), (experts, want)):
            raise PlanError(
                f"the imatrix has {have} values for {name}",
                expected=f"{want} columns" + (f" for {experts} experts" if experts > 1 else ""),
                todo=f"give an imatrix made from {model.name}",
            )


class _Mix:
    """A preset at work on one model."""

    def __init__(self, model: Model, preset: Preset, imatrix: bool) -> None:
        self.preset, self.imatrix = preset, imatrix
        self.tied = "output.weight" not in model.tensors
        self.num_layers = int(_first(model.meta("{arch}.block_count", 0)))
        heads = int(_first(model.meta("{arch}.attention.head_count", 0)))
        kv_heads = int(_first(model.meta("{arch}.attention.head_count_kv", heads)))
        self.gqa = heads // kv_heads if kv_heads else 1
        self.experts = int(_first(model.meta("{arch}.expert_count", 0)))
        self.is_70b = self.num_layers == 80 and model.family in ("llama", "qwen2") and self.gqa > 1
        ordered = sorted(model.tensors, key=roles.order)
        values = [n for n in ordered if roles.role(n, tied=self.tied) == "attn_v"]
        self.value_index = {name: i for i, name in enumerate(values)}

    def choose(self, tensor: Tensor) -> str:
        preset, name = self.preset, tensor.name
        base = encodings.get(preset.base)
        if base.block == 1:
            return base.name
        role = roles.role(name, tied=self.tied)
        if role == "output":
            return "q8_0" if columns(tensor) % base.block else preset.output
        if preset.name == "MXFP4_MOE":
            return "mxfp4" if len(tensor.shape) == 3 else "q8_0"
        if role == "attn_v":
            index, count = self.value_index[name], len(self.value_index)
        else:
            index, count = roles.layer(name) or 0, self.num_layers
        place = Place(
            role=role,
            index=index,
            count=count,
            gqa=self.gqa,
            experts=self.experts,
            imatrix=self.imatrix,
        )
        found = next((e for r, e, when in preset.rules if r == role and when(place)), preset.base)
        return found if preset.low else self._large(role, found)

    def _large(self, role: str, found: str) -> str:
        """Two exceptions of llama.cpp.

        The small attn_v of 70B models, and models of eight experts.
        """
        if role == "attn_v" and self.is_70b and found in ("q3_k", "q4_k"):
            found = "q5_k"
        if role in ("attn_v", "attn_k") and self.experts == 8:
            found = "q8_0"
        return found


def _first(value: object) -> int:
    """A number that some models give per layer: the first one."""
    if isinstance(value, (int, float)):
        return int(value)
    return int(value[0]) if value is not None and len(value) else 0  # type: ignore[index, arg-type]

"""Turn a preset, an encoding or a plan file into one decision per tensor."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from kanna import encodings, methods
from kanna.encodings import Encoding
from kanna.errors import PlanError
from kanna.methods.hessian import SecondMoment
from kanna.model import F32, Model, Tensor, bits_per_weight, columns, num_weights
from kanna.plan import gguf, roles
from kanna.plan.fallback import feasible
from kanna.plan.file import Plan, RuleModel
from kanna.plan.prior import prior_of
from kanna.plan.tuning import EncodedRows, Tuning, Vector, factors, shifts
from kanna.plan.types import Substitution, TensorPlan

SecondMoments = Callable[[str], "SecondMoment | None"]
"""Second moment of a tensor's inputs by its name; None where it is not known."""


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
    second_moments: SecondMoments | None = None,
    method: str = "search",
) -> Resolved:
    """Decide every tensor of `model` by one of a preset, an encoding and a plan.

    Args:
        model: The model to plan for.
        preset: Name of a GGUF preset.
        encoding: Name of the encoding that every matrix gets.
        plan: A plan, with rules or without.
        weights: Importance of columns by tensor name (an imatrix), [columns] or [experts, columns].
        second_moments: Second moment of a tensor's inputs by its name; a tensor without one, and
            an encoding that `gptq` does not know, gets `search` in place of it.
        method: How values of tensors without a rule are chosen.

    Raises:
        PlanError: A plan names no tensor, or weights or tuning do not fit the model.
    """
    if sum(x is not None for x in (preset, encoding, plan)) != 1:
        raise PlanError("give one of a preset, an encoding and a plan")
    weights = weights or {}
    if plan is None:
        plan = Plan.of_encoding(encoding) if encoding else Plan(preset=preset)
    complete = gguf.completed(plan, model, weighted=bool(weights), method=method)
    _check_weights(model, weights)
    rules = _Rules(complete.rules)
    entries: list[TensorPlan] = []
    substitutions: list[Substitution] = []
    nominal = 0.0
    for name, tensor in model.tensors.items():
        wanted, tensor_method = _wanted(model, tensor, rules, complete, method)
        got, reason = _possible(model, tensor, wanted)
        if reason:
            substitutions.append(
                Substitution(name=name, wanted=wanted.name, got=got.name, reason=reason)
            )
        nominal += wanted.bits * num_weights(tensor)
        entries.append(_entry(model, tensor, got, tensor_method, weights, second_moments))
    rules.check_used(plan.rules)
    tuning = plan.tuned()
    if tuning is not None:
        tuning.check(model.tensors)
        entries = [_tuned(entry, tuning) for entry in entries]
    total = model.num_parameters
    return Resolved(
        name=complete.name or "custom",
        entries=entries,
        substitutions=substitutions,
        nominal_bits=nominal / total,
        bits=bits_per_weight(sum(e.nbytes for e in entries), total),
        tuning=tuning.sha256 if tuning else None,
    )


def _wanted(
    model: Model, tensor: Tensor, rules: _Rules, plan: Plan, method: str
) -> tuple[Encoding, str]:
    """The encoding and the method that a plan means for a tensor, whether its rows fit or not.

    A pattern means matrices; a norm, a bias and the like are meant only by their whole name.
    """
    free = roles.quantizable(tensor)
    rule = rules.first(tensor.name) if free else rules.named(tensor.name)
    if rule is not None:
        return encodings.get(rule.encoding), rule.method
    if not free:
        return encodings.get(roles.kept(model, tensor)), method
    return encodings.get(plan.encoding or ""), method


def _possible(model: Model, tensor: Tensor, wanted: Encoding) -> tuple[Encoding, str]:
    """What a tensor can have in place of `wanted`, and why; the reason is "" when that fits."""
    if roles.is_vector(tensor):
        kept = encodings.get(roles.kept(model, tensor))
        reason = "runtimes compute with norms and biases in full precision"
        return kept, "" if wanted == kept else reason
    return feasible(wanted, columns(tensor))


class _Rules:
    """Rules of a plan; those that name one tensor whole are found without looking at the others."""

    def __init__(self, rules: Sequence[RuleModel]) -> None:
        self._used: set[str] = set()
        self._passed: set[str] = set()
        self._rules = rules
        self._by_name: dict[str, int] = {}
        self._patterns: list[tuple[int, re.Pattern[str]]] = []
        for index, rule in enumerate(rules):
            if (name := _whole_name(rule.pattern)) is not None:
                self._by_name.setdefault(name, index)
            else:
                self._patterns.append((index, re.compile(rule.pattern)))

    def first(self, name: str) -> RuleModel | None:
        """The first rule that names a tensor."""
        end = self._by_name.get(name, len(self._rules))
        index = next((i for i, p in self._patterns if i < end and p.search(name)), end)
        if index == len(self._rules):
            return None
        self._used.add(self._rules[index].pattern)
        return self._rules[index]

    def named(self, name: str) -> RuleModel | None:
        """The rule that names a tensor whole."""
        index = self._by_name.get(name)
        if index is None:
            self._passed.update(p.pattern for _, p in self._patterns if p.search(name))
            return None
        self._used.add(self._rules[index].pattern)
        return self._rules[index]

    def check_used(self, rules: Sequence[RuleModel]) -> None:
        """PlanError for the first of `rules` that named no tensor so far."""
        unused = next((r.pattern for r in rules if r.pattern not in self._used), None)
        if unused in self._passed:
            raise PlanError(
                f"the pattern {unused!r} names only norms, biases and the like, which stay as they "
                "are",
                expected="a pattern that names a matrix",
                todo="leave the rule out: `kanna inspect SRC` lists the names",
            )
        if unused is not None:
            raise PlanError(
                f"the pattern {unused!r} names no tensor",
                todo="`kanna inspect SRC` lists the names",
            )


def _whole_name(pattern: str) -> str | None:
    r"""The name that a pattern such as `^output\.weight$` means; None for any other pattern."""
    name = re.sub(r"\\(.)", r"\1", pattern[1:-1])
    return name if pattern == f"^{re.escape(name)}$" else None


def _tuned(entry: TensorPlan, tuning: Tuning) -> TensorPlan:
    if (vector := tuning.vectors.get(entry.name)) is not None:
        return replace(entry, tensor=Vector(entry.name, vector))
    if (rows := tuning.rows.get(entry.name)) is not None:
        if rows.shape[1] != entry.encoding.row_bytes(columns(entry.tensor)):
            raise PlanError(
                f"the tuning has rows of {rows.shape[1]} bytes for {entry.name}, now"
                f" {entry.encoding.label}",
                expected="the tuning of this very plan",
            )
        made = EncodedRows(entry.name, entry.tensor.shape, entry.encoding.name, rows)
        entry = replace(entry, tensor=made)
    scale, offset = tuning.scales.get(entry.name), tuning.offsets.get(entry.name)
    if scale is None and offset is None:
        return entry
    blocks = columns(entry.tensor) // entry.encoding.block
    fits = factors(entry.encoding) and scale is not None and scale.shape[1] in (1, blocks)
    if not fits or (
        offset is not None and not (shifts(entry.encoding) and offset.shape[1] == blocks)
    ):
        arrays = {"factors": scale, "offsets": offset}
        counts = [f"{array.shape[1]} {kind}" for kind, array in arrays.items() if array is not None]
        raise PlanError(
            f"the tuning has {' and '.join(counts)} in each row of {entry.name}, now"
            f" {entry.encoding.label}",
            expected="the tuning of this very plan",
        )
    return replace(entry, scale=scale, offset=offset)


def _entry(
    model: Model,
    tensor: Tensor,
    encoding: Encoding,
    method: str,
    weights: Mapping[str, F32],
    second_moments: SecondMoments | None,
) -> TensorPlan:
    """A tensor with what is known of its inputs, as far as the method uses it."""
    quantized = encoding.block > 1
    guessed = quantized and tensor.name not in weights and method == "search"
    prior = prior_of(model, tensor.name) if guessed else None
    second_moment = None
    chosen_by = methods.get(method)
    if chosen_by.needs_second_moment:
        if quantized and second_moments and chosen_by.knows(encoding):
            second_moment = second_moments(tensor.name)
        if second_moment is None:
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
            f"the imatrix names no tensor of this model, but {len(weights)} others such as"
            f" {next(iter(weights))}",
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

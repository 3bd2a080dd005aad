"""Tensors that a backend does not multiply: a runtime sends them back to the CPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from kanna.errors import PlanError
from kanna.hardware.targets.base import TargetChoice
from kanna.model import Tensor

_FLOATS = {"f32", "f16", "bf16", "f64"}
_WHOLE = {"i8", "i16", "i32", "i64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """A tensor outside the mask.

    Attributes:
        name: The tensor.
        encoding: Its encoding.
        refused: Whether the backend is known not to multiply it; otherwise nobody tried.
    """

    name: str
    encoding: str
    refused: bool


def admits(choice: TargetChoice, encoding: str, shape: Sequence[int]) -> bool:
    """Whether the backend multiplies a tensor in an encoding.

    Vectors and whole numbers are not multiplied as matrices: they are always admitted, and so is
    all of a format that llama.cpp does not load. Its runtime multiplies what kanna writes for it.

    Args:
        choice: The device and its backend.
        encoding: Name of the encoding.
        shape: Of the tensor, its columns last.
    """
    if len(shape) < 2 or encoding in _WHOLE or not choice.is_profiled:
        return True
    multiple = choice.backend.alignment
    if multiple is not None and encoding not in _FLOATS and shape[-1] % multiple.value:
        return False
    return choice.operators.multiplies(encoding, stacked=len(shape) == 3)


def outside(
    choice: TargetChoice, tensors: Iterable[tuple[str, str, Sequence[int]]]
) -> list[Outside]:
    """The tensors that the backend does not multiply.

    Args:
        choice: The device and its backend.
        tensors: Name, encoding and shape of each.
    """
    refused = choice.operators.refused
    return [
        Outside(name=name, encoding=encoding, refused=encoding in refused)
        for name, encoding, shape in tensors
        if not admits(choice, encoding, shape)
    ]


def check(
    choice: TargetChoice, tensors: Sequence[tuple[str, str, Sequence[int]]], plan: str
) -> list[str]:
    """Refuse a plan with tensors that the backend is known not to multiply.

    Args:
        choice: The device and its backend.
        tensors: Name, encoding and shape of each.
        plan: What the plan is called.

    Returns:
        A note on those that nobody tried on that backend.

    Raises:
        PlanError: Some are refused.
    """
    bad = outside(choice, tensors)
    refused = [one for one in bad if one.refused]
    table = choice.operators
    source = f"llama.cpp's operator table {table.name} of {table.date}"
    if refused:
        raise PlanError(
            f"{choice.name} does not multiply {_counted(refused)} of {len(tensors)} in {plan}, "
            f"such as {refused[0].name}: they would run on the CPU",
            expected=f"{', '.join(sorted(table.matrices))} ({source})",
            todo=f"`kanna fit SRC --target {choice.name}` shows the presets that run whole, "
            f"`kanna optimize SRC --target {choice.name}` makes a file of these encodings",
        )
    if bad:
        return [
            f"{source} says nothing of {_counted(bad)}: they may run on the CPU on {choice.name}"
        ]
    return []


def _counted(bad: Sequence[Outside]) -> str:
    """`24 tensors (20 in q3_k, 4 in iq4_xs)`."""
    counts = Counter(one.encoding for one in bad)
    parts = ", ".join(f"{count} in {name}" for name, count in counts.most_common())
    return f"{len(bad)} tensor{'s' if len(bad) > 1 else ''} ({parts})"


def mask(choice: TargetChoice, tensors: Mapping[str, Tensor]) -> Callable[[str, str], bool]:
    """A test whether a tensor may have an encoding.

    Args:
        choice: The device and its backend.
        tensors: Those of the model by name; what is not among them may have any.
    """

    def allowed(name: str, encoding: str) -> bool:
        tensor = tensors.get(name)
        return tensor is None or admits(choice, encoding, tensor.shape)

    return allowed

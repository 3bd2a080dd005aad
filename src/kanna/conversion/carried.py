"""Whether a format holds the encodings that are asked for, and which one does where it does not."""

from __future__ import annotations

from collections.abc import Iterable

from kanna import encodings, formats
from kanna.encodings import Encoding
from kanna.errors import PlanError, UsageError
from kanna.plan import TensorPlan


def check_encoding(format: str, name: str) -> None:
    """Raise UsageError when a format does not hold an encoding; UnsupportedError for an unknown.

    Args:
        format: The format that is written.
        name: What the user gave as the encoding of every matrix.
    """
    encoding = encodings.get(name)
    if not formats.get(format).carries(encoding):
        title = formats.get(format).title
        raise UsageError(
            f"{title} has no {encoding.label}",
            expected=_near(format, name) or f"an encoding of {title}",
            todo=_holders(encoding),
        )
    if encoding.encoder is None:
        raise UsageError(
            f"{encoding.label} is only read, nothing is written in it",
            expected="an encoding for weights, such as f32, bf16 or q8_0",
        )


def check_entries(format: str, entries: Iterable[TensorPlan]) -> None:
    """Raise PlanError for the first tensor whose encoding the format does not hold.

    Args:
        format: The format that is written.
        entries: What becomes of each tensor.
    """
    record = formats.get(format)
    for entry in entries:
        encoding = entry.encoding
        if not record.carries(encoding):
            raise PlanError(
                f"the plan gives {entry.name} {encoding.label}, which {record.title} has not",
                expected=f"an encoding of {record.title}",
                todo=_holders(encoding),
            )
        if encoding.encoder is None and entry.tensor.dtype != encoding.name:
            raise PlanError(
                f"the plan gives {entry.name} {encoding.label}, in which nothing is written",
                expected="an encoding for weights, such as f32, bf16 or q8_0",
            )


def _near(format: str, name: str) -> str:
    """Encodings of a format whose names begin as that one does; "" where there are none."""
    known = [*encodings.names(), *encodings.grouped.names()]
    near = [one for one in known if one.startswith(name.lower())]
    return " or ".join(n for n in near if formats.get(format).carries(encodings.get(n)))


def _holders(encoding: Encoding) -> str:
    """What to do to get an encoding: the formats that hold it."""
    names = [n for n in formats.names() if formats.get(n).carries(encoding)]
    return f"add --format {names[0]}" if names else ""

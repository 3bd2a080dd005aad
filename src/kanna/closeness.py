"""How close a quantized model stays to its original, as a word and as a sentence for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """A grade of closeness: the worst of what was measured decides.

    Attributes:
        name: The word.
        kl: Most nats of mean KL divergence.
        top1: Least share of positions with the same likeliest next token.
        task_loss: Most that the share of tasks solved may fall, 0.01 for one point of a hundred.
        meaning: What to expect of it.
    """

    name: str
    kl: float
    top1: float
    task_loss: float
    meaning: str


GRADES = (
    Grade(
        name="near-identical",
        kl=0.01,
        top1=0.95,
        task_loss=0.005,
        meaning="answers read as those of the original",
    ),
    Grade(
        name="close",
        kl=0.05,
        top1=0.90,
        task_loss=0.01,
        meaning="some words differ, the substance hardly ever",
    ),
    Grade(
        name="fair",
        kl=0.2,
        top1=0.80,
        task_loss=0.03,
        meaning="wording often differs, and now and then a fact or a step does",
    ),
    Grade(
        name="weak",
        kl=0.5,
        top1=0.70,
        task_loss=0.08,
        meaning="many answers differ, and are worse",
    ),
    Grade(
        name="poor",
        kl=float("inf"),
        top1=0.0,
        task_loss=1.0,
        meaning="another, much worse model: only where nothing else fits",
    ),
)
"""From the closest on; docs/glossary.md has the table."""


def grade(
    kl_mean: float | None, top1: float | None = None, task_loss: float | None = None
) -> Grade | None:
    """The grade of what was measured; None where nothing was.

    Args:
        kl_mean: Mean KL divergence in nats.
        top1: Share of positions with the same likeliest next token.
        task_loss: How much the share of tasks solved fell; below 0 where it rose.
    """
    if kl_mean is None and top1 is None and task_loss is None:
        return None
    for one in GRADES:
        if (
            (kl_mean is None or kl_mean <= one.kl)
            and (top1 is None or top1 >= one.top1)
            and (task_loss is None or task_loss <= one.task_loss)
        ):
            return one
    return GRADES[-1]  # figures that are not numbers


def grade_name(row: Mapping[str, Any]) -> str | None:
    """The word for a row of a report: of its figures, so that reports of earlier runs have it."""
    known = grade(row.get("kl_mean"), row.get("top1"), row.get("task_loss"))
    return known.name if known else None


def agreement(top1: float | None) -> str:
    """`87 of 100 next tokens the same`, with a decimal near 100; "" where it was not measured."""
    if top1 is None:
        return ""
    share = 100 * top1
    if share >= 99.95:
        return "all next tokens the same" if top1 == 1 else "nearly all next tokens the same"
    return f"{share:.{1 if share > 99 else 0}f} of 100 next tokens the same"


def describe(kl_mean: float | None, top1: float | None, task_loss: float | None = None) -> str:
    """`close: 92 of 100 next tokens the same`; "" where nothing was measured."""
    known = grade(kl_mean, top1, task_loss)
    if known is None:
        return ""
    return ": ".join(p for p in (known.name, agreement(top1)) if p)

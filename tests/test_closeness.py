"""Grades of closeness, and the words for them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from kanna.checks import gate_word
from kanna.closeness import GRADES, agreement, describe, grade, grade_name

GLOSSARY = Path(__file__).parent.parent / "docs" / "glossary.md"


@pytest.mark.parametrize(
    ("kl", "top1", "task_loss", "name"),
    [
        (0.003, 0.98, None, "near-identical"),
        (0.003, 0.94, None, "close"),
        (0.04, 0.92, None, "close"),
        (0.04, 0.92, 0.05, "weak"),
        (0.1, None, None, "fair"),
        (0.43, 0.75, None, "weak"),
        (0.43, 0.6, None, "poor"),
        (0.9, 0.99, None, "poor"),
        (math.nan, math.nan, None, "poor"),
        (None, None, -0.02, "near-identical"),
    ],
)
def test_the_worst_figure_decides(
    kl: float | None, top1: float | None, task_loss: float | None, name: str
) -> None:
    known = grade(kl, top1, task_loss)
    assert known is not None and known.name == name


def test_nothing_measured_has_no_grade() -> None:
    assert grade(None) is None and grade_name({}) is None and describe(None, None) == ""


@pytest.mark.parametrize(
    ("top1", "words"),
    [
        (0.87, "87 of 100 next tokens the same"),
        (0.9934, "99.3 of 100 next tokens the same"),
        (0.9999, "nearly all next tokens the same"),
        (1.0, "all next tokens the same"),
        (None, ""),
    ],
)
def test_agreement_is_said_in_tokens(top1: float | None, words: str) -> None:
    assert agreement(top1) == words


def test_files_of_earlier_runs_read_alike() -> None:
    assert gate_word("proved") == gate_word("intact") == "intact"
    assert gate_word("failed") == "failed" and gate_word(None) == ""


def test_the_glossary_has_every_grade_with_its_limits() -> None:
    table = GLOSSARY.read_text(encoding="utf-8")
    for one in GRADES:
        row = next(line for line in table.splitlines() if line.startswith(f"| {one.name} |"))
        assert one.meaning in row
        if math.isfinite(one.kl):
            assert f"{one.kl:g}" in row and f"{100 * one.top1:g}" in row

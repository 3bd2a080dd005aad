"""A built-in model that writes stories alone is measured on stories, whichever verb measures."""

from __future__ import annotations

from pathlib import Path

import kanna
from kanna.evaluation.windows import text_for


def test_evaluate_and_compare_read_stories(tmp_path: Path) -> None:
    """Of the same file both give the same figures: those on the stories in the package."""
    compared = kanna.compare(
        "builtin:stories15m", presets=["Q4_0"], out=tmp_path / "out", windows=2, repeat=1
    )
    [row] = [row for row in compared.rows if row.preset == "Q4_0"]
    evaluated = kanna.evaluate(row.path, reference="builtin:stories15m", windows=2)
    assert evaluated.text == "stories.txt"
    assert evaluated.kl_mean == row.kl_mean


def test_others_are_measured_on_wikitext(tiny_gguf: Path) -> None:
    assert text_for(kanna.open_source(tiny_gguf), None) is None
    assert text_for(kanna.open_source("builtin:stories15m"), "own.txt") == "own.txt"

"""The recipes of docs/recipes.md run, on a tiny model, and the page names what the code has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("transformers")

import kanna  # noqa: E402
from kanna.recipes import verbs  # noqa: E402

PAGE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"^```yaml\n# (\S+\.yaml)\n(.*?)^```", PAGE, re.M | re.S))


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(name: str, small: None, llama: Path, text: Path, tmp_path: Path) -> None:
    for other, content in EXAMPLES.items():
        (tmp_path / other).write_text(content, encoding="utf-8")
    if "search:" in EXAMPLES[name]:
        pytest.importorskip("optuna")
    (tmp_path / "model").symlink_to(llama)
    (tmp_path / "holdout.txt").symlink_to(text)
    result = kanna.run(tmp_path / name, tmp_path / "out")
    assert result.ok, [step.error for step in result.steps if step.error]
    assert result.count("done") >= 2


def _rows(heading: str) -> dict[str, str]:
    """First and second cell of a table whose head begins with a text."""
    table = re.search(rf"^\| verb \| {heading}.*\n\|.*\n((?:\|.*\n)+)", PAGE, re.M)
    assert table, heading
    cells = [line.split("|")[1:3] for line in table[1].splitlines()]
    return {re.findall(r"`(\w+)`", name)[0]: words for name, words in cells}


def test_the_page_names_every_output_and_figure() -> None:
    outputs, figures = _rows("outputs"), _rows("figures")
    for name in verbs.names():
        verb = verbs.get(name)
        assert re.findall(r"`(\w+)`", outputs.get(name, "")) == list(verb.outputs), name
        assert set(verb.figures) <= set(re.findall(r"`(\w+)`", figures[name])), name


def test_the_recipe_for_npus_is_taken(llama: Path, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "npu.md").read_text(encoding="utf-8")
    shown = re.search(r"^```yaml\n(# npu\.yaml\n.*?)^```", page, re.M | re.S)
    assert shown is not None
    (tmp_path / "npu.yaml").write_text(shown[1], encoding="utf-8")
    (tmp_path / "model").symlink_to(llama)
    result = kanna.run(tmp_path / "npu.yaml", tmp_path / "out", dry_run=True)
    assert len(result.planned) == 6

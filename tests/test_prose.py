"""Documents are wrapped at 100 columns, and what they name exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")})
PRESENT = [path for path in DOCUMENTS if path.name != "CHANGELOG.md"]
"""Documents that say what is; the changelog names what was, too."""
MAX_COLUMNS = 100
PENDING = {"tests/formats/test_dummy_format.py"}
"""Tests that CONTRIBUTING.md names and that are still to be written; nothing is added here."""


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines outside tables and code."""
    fenced = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        text = line.lstrip()
        if text.startswith("```"):
            fenced = not fenced
        elif not fenced and not text.startswith("|"):
            yield number, line


def unbreakable(line: str) -> bool:
    """Whether a line holds nothing to wrap at: one link or one piece of code."""
    text = re.sub(r"`[^`]*`|!?\[[^\]]*\]\([^)]*\)", "x", line.strip())
    return " " not in text


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_prose_is_wrapped(path: Path) -> None:
    long = [n for n, line in prose(path) if len(line) > MAX_COLUMNS and not unbreakable(line)]
    assert not long, f"{path.name}: lines {long} are longer than {MAX_COLUMNS} columns"


@pytest.mark.parametrize("path", PRESENT, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_named_in_documents_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = set(
        re.findall(r"(?<![\w/])(?:tests|benchmarks|tools|src/kanna)/[\w/]+\.(?!md\b)\w+", text)
    )
    missing = {name for name in named - PENDING if not (ROOT / name).exists()}
    assert not missing, f"{path.name} names {missing}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_benchmarks_named_in_documents_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for module in re.findall(r"\bpython -m (benchmarks(?:\.\w+)+)", text):
        file = ROOT.joinpath(*module.split(".")).with_suffix(".py")
        assert file.exists(), f"{path.name} runs {module}"


def rows_of_contributing() -> list[list[str]]:
    """Cells of the table of what to write for what."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| (.*) \|$", text, re.MULTILINE)
    return [line.split(" | ") for line in lines][1:]


@pytest.mark.parametrize("row", rows_of_contributing(), ids=lambda row: row[0])
def test_contributing_names_the_files_that_matter(row: list[str]) -> None:
    _, files, exports, test = row
    patterns = re.findall(r"`([^`]*<name>[^`]*)`", files)
    for export in re.findall(r"`(\w+)`", exports):
        code = [path for p in patterns for path in ROOT.glob(p.replace("<name>", "*"))]
        exporting = re.compile(rf"^{export}\b", re.MULTILINE)
        assert any(exporting.search(path.read_text(encoding="utf-8")) for path in code)
    for pattern in patterns:
        assert list(ROOT.glob(pattern.replace("<name>", "*"))), f"there is no {pattern}"
    for path in set(re.findall(r"`([^`]*)`", test)) - PENDING:
        assert (ROOT / path).exists(), f"there is no {path}"

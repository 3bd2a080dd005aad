"""docs/security.md promises what tests hold: each test it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kanna.serving import requests

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
TESTS = {
    name
    for path in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)
}


def _rows() -> list[list[str]]:
    """The rows of all tables that say which test holds them, without their heads."""
    tables = re.findall(r"(?:^\|.*\n)+", PAGE, re.MULTILINE)
    kept = [t.splitlines() for t in tables if re.search(r"\| (?:held by|test) \|\n", t)]
    assert len(kept) == 2
    return [[c.strip() for c in row.strip("| ").split(" | ")] for t in kept for row in t[2:]]


@pytest.mark.parametrize("row", _rows(), ids=lambda row: row[0][:60])
def test_a_promise_names_tests_that_exist(row: list[str]) -> None:
    named = re.findall(r"`(tests?[_/][^`]+)`", row[-1])
    assert named, f"no test holds: {row[0]}"
    for name in named:
        assert name in TESTS or (ROOT / name).is_file(), f"{name} is no test"


def test_references_are_numbers_as_they_are_given() -> None:
    published = [row[1] for row in _rows() if len(row) == 4]
    assert len(published) >= 28
    one = r"CVE-20\d\d-\d{4,6}|GHSA(-[0-9a-z]{4}){3}|GO-20\d\d-\d{4}"
    for references in published:
        for reference in re.sub(r" \([^)]*\)", "", references).split(", "):
            assert re.fullmatch(one, reference), reference


@pytest.mark.parametrize("program", ["llama.cpp", "Ollama", "vLLM", "MLflow", "Triton"])
def test_each_program_has_its_classes(program: str) -> None:
    assert [row for row in _rows() if len(row) == 4 and program in row[1]]


@pytest.mark.parametrize("option", ["n_discard", "n_keep", "id_slot", "n_cmpl"])
def test_no_request_sets_an_option_of_the_engine_s_own(option: str) -> None:
    body = {"model": "m", "prompt": "a", option: -5}
    assert option not in requests.check(requests.Completion, body)

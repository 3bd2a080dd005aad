"""Hashes of what an adapter learned: what was learned does not judge it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kanna.errors import FormatError, UsageError
from kanna.training import learned
from kanna.training.examples import Example

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "once",
    "upon",
    "some",
    "other",
    "time",
]


def example(number: int, more: str = "") -> Example:
    turned = WORDS[number % 7 :] + WORDS[: number % 7]
    return Example(where=f"line {number}", prompt=f"{number} {more}", text=" ".join(turned * 2))


def test_what_was_learned_is_refused_and_told(tmp_path: Path) -> None:
    learned.refuse(tmp_path, [example(1)])  # of an adapter that something else made
    learned.write(tmp_path, [example(number) for number in range(5)])
    assert "fox" not in (tmp_path / learned.FILE).read_text()
    learned.refuse(tmp_path, [example(5), example(6)])
    with pytest.raises(UsageError, match="2 of 3 examples .* first line 3"):
        learned.refuse(tmp_path, [example(6), example(3), example(4)])


@pytest.mark.parametrize("packed", ["", "!", "AAAA", "eJwDAAAAAAE=", 7])
def test_a_damaged_file_is_an_error_of_ours(tmp_path: Path, packed: object) -> None:
    (tmp_path / learned.FILE).write_text(json.dumps({"examples": 2, "signatures": packed}))
    with pytest.raises(FormatError, match=learned.FILE):
        learned.refuse(tmp_path, [example(1)])


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("before: 5 WHAT? The answer, in six or more words! After.", True),
        ("before: 5 what? After. The answer in six or more words", True),
        ("before: 5 what? The answer in six or some words.", False),
        ("15 what? The answer in six or more words.", False),
    ],
)
def test_an_example_inside_a_text_is_found(text: str, refused: bool) -> None:
    held = Example(where="held, line 1", prompt="5 what?", text="The answer in six or more words.")
    short = Example(where="held, line 2", text="The answer")
    learned.refuse_containing(Path("log.txt"), [text], [short])
    if refused:
        with pytest.raises(UsageError, match="held, line 1"):
            learned.refuse_containing(Path("log.txt"), ["other", text], [short, held])
    else:
        learned.refuse_containing(Path("log.txt"), ["other", text], [short, held])

"""The stages of an optimization: named, in the order of the documentation, and cancellable."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kanna.optimization import STAGES, adapters
from kanna.optimization.context import Context
from kanna.optimization.stages import stage

DOCS = Path(__file__).parents[2] / "docs"


def test_stages_are_those_of_the_picture() -> None:
    picture = (DOCS / "optimize.md").read_text(encoding="utf-8").split("```")[1]
    drawn = [re.split(r" {2,}", line)[0] for line in picture.strip().splitlines()]
    assert [name.replace("-", " ") for name in STAGES] == drawn
    assert all(stage.name == name and stage.summary for name, stage in STAGES.items())


def test_a_cancelled_run_begins_no_stage() -> None:
    called: list[str] = []
    try:

        @stage("trial", "For this test")
        def trial(job: Any, word: str) -> str:
            called.append(word)
            return word

        stop = False
        context = Context(cancelled=lambda: stop)
        job: Any = SimpleNamespace(context=context)
        assert trial(job, "once") == "once" and "trial" in context.clock.seconds
        stop = True
        with pytest.raises(KeyboardInterrupt):
            trial(job, "twice")
    finally:
        STAGES.pop("trial")
    assert called == ["once"]


def test_notes_are_not_repeated() -> None:
    context = Context()
    context.note("a", "b", "a")
    context.note("b", "c")
    assert context.notes == ["a", "b", "c"]


def test_every_format_has_its_files() -> None:
    """Formats in one output folder keep apart."""
    workspace: Any = SimpleNamespace(folder=Path("out"), speed=None)
    names = {
        name: adapters.get(name)(workspace).file("plan.json").name for name in adapters.names()
    }
    assert names["gguf"] == "plan.json" and names["mlx"] == "plan-mlx.json"
    assert len(set(names.values())) == len(names)

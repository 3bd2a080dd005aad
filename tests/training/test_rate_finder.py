"""`kanna adapt --auto`: the learning rate is found on the data, the run is as if it was given."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers import tiny_adapters

import kanna
from kanna.cli.main import cli
from kanna.errors import UsageError
from kanna.training import rate_finder, watching

pytest.importorskip("trl")

SETTINGS: dict[str, Any] = {"threads": 1, "rank": 4, "samples": 0, "verify": False}
GRID = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("rates")
    tiny_adapters.base("llama", home / "source")
    tiny_adapters.words_to_say(home / "chats.jsonl")
    return home


def adapt(home: Path, name: str, **more: Any) -> kanna.AdaptResult:
    return kanna.adapt(home / "source", home / "chats.jsonl", home / name, **(SETTINGS | more))


class Phases:
    """Notes the phases of progress, and the lines above it."""

    def __init__(self) -> None:
        self.steps: dict[str, int] = {}
        self.lines: list[str] = []

    def start(self, stage: str, total: int | None, unit: str = "bytes") -> None:
        self.stage = stage
        self.steps[stage] = 0

    def advance(self, amount: int, detail: str = "") -> None:
        self.steps[self.stage] += amount

    def finish(self) -> None:
        pass

    def remark(self, text: str) -> None:
        self.lines.append(text)


def test_an_interrupted_run_keeps_the_rate_and_is_as_if_it_was_given(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepped, phases = watching.Watcher.stepped, Phases()

    def ended(watcher: watching.Watcher, step: int) -> None:
        if step == 3:
            raise KeyboardInterrupt
        stepped(watcher, step)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(watching.Watcher, "stepped", ended)
        adapt(home, "auto", steps=8, auto=True, progress=phases)
    assert [*phases.steps][-3:] == ["learning rate", "held-out loss of the base", "train"]
    assert 8 < phases.steps["learning rate"] <= rate_finder.STEPS <= 60
    assert "it did best at" in phases.lines[-1] and "is taken (learning rate" in phases.lines[-1]
    with monkeypatch.context() as patched:
        patched.setattr(rate_finder, "find", lambda *_, **__: pytest.fail("it looked again"))
        found = adapt(home, "auto", steps=8, auto=True)
    rate = found.rate_test["rate"]
    assert found.settings["learning_rate"] == rate and found.settings["auto"] is True
    assert found.rate_test["steps"] == phases.steps["learning rate"]
    assert any(f"(learning rate {rate:.2g})" in note for note in found.notes)
    given = adapt(home, "given", steps=8, learning_rate=rate)
    one, two = (home / name / "adapter_model.safetensors" for name in ("auto", "given"))
    assert one.read_bytes() == two.read_bytes() and given.rate_test == {}
    assert json.loads((home / "auto" / "report.json").read_text())["rate_test"] == found.rate_test


@pytest.mark.slow
def test_the_rate_is_near_the_best_of_a_grid(home: Path) -> None:
    losses = {
        rate: adapt(home, f"r{rate}", steps=40, learning_rate=rate).tuned_loss for rate in GRID
    }
    best = min(losses, key=lambda rate: losses[rate])
    found = adapt(home, "found", steps=40, auto=True)
    assert 1 / 3 <= found.rate_test["rate"] / best <= 3, (losses, found.rate_test)
    assert found.tuned_loss < losses[GRID[0]] / 2, "far from a bad default"


def point(rate: float, loss: float) -> dict[str, float]:
    return {"rate": rate, "loss": loss}


@pytest.mark.parametrize(
    ("curve", "rate", "best"),
    [
        ([point(0.0, 3.0), point(1e-4, 2.5), point(1e-2, 2.0), point(1e-1, 9.0)], 2e-3, 1e-2),
        ([point(0.0, 3.0), point(1e-4, 2.5), point(1e-2, math.nan)], 2e-5, 1e-4),
        ([point(0.0, 3.0), point(1e-4, 3.5)], 5e-4, None),
        ([point(0.0, math.nan)], 5e-4, None),
    ],
)
def test_the_rate_is_a_part_of_the_best_one(
    curve: list[dict[str, float]], rate: float, best: float | None
) -> None:
    assert rate_finder.pick(curve, 5e-4) == (pytest.approx(rate), best)
    told = rate_finder.words({"rate": rate, "best": best, "steps": 48})
    assert ("no speed of learning" in told) == (best is None) and f"{rate:.2g}" in told


def test_a_rate_is_found_or_given(home: Path) -> None:
    with pytest.raises(UsageError, match="--auto finds the learning rate"):
        adapt(home, "both", auto=True, learning_rate=1e-3)
    words = ["adapt", str(home / "source"), "--data", str(home / "chats.jsonl"), "--auto"]
    more = ["-o", str(home / "both"), "--learning-rate", "0.001"]
    assert CliRunner().invoke(cli, [*words, *more]).exit_code == 2
    assert not (home / "both").exists()

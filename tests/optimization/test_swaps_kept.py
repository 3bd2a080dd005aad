"""A run that is ended while a swap takes its place neither loses nor doubles it."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kanna._util.progress import Silent
from kanna.optimization import local_search
from kanna.optimization.local_search import LocalSearch, SearchState, remove_kept
from kanna.optimization.search import PlannedArtefact

MOVES = [("a", 1.6), ("b", 1.6), ("c", 1.6)]
NAME = "tiny-optimized.gguf"
EXIT = 77
"""Of a process in which no event was left to be killed before."""
STEPS = {"os.rename", "os.remove"}


def _rewrite(plan: Path, out: Path, before: Path) -> None:
    out.write_text(plan.read_text())


class Planner(LocalSearch):
    """A search over three groups, each of which gains once; what a plan makes is its name."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._file = folder, folder / "swaps.json"
        self._states: dict[str, Any] = local_search._read(self._file)  # pyright: ignore[reportPrivateUsage]
        fresh = SearchState(key="k", queue=MOVES, encodings=dict.fromkeys("abc", "q4"))
        self.state = local_search._state(  # pyright: ignore[reportPrivateUsage]
            self._states.get("k"), fresh
        )
        self._choices, self._groups, self._budget = [], [], 0
        windows: Any = SimpleNamespace(trial=[("text", [1])] * 4, proof=[])
        self._windows = windows
        adapter: Any = SimpleNamespace(
            workspace=SimpleNamespace(context=SimpleNamespace(progress=Silent())),
            rewrite=_rewrite,
        )
        self._adapter = adapter

    def _scorer(self, windows: Any) -> Any:
        return Scorer(list(windows))


class Scorer:
    """Counts what a file has changed."""

    def __init__(self, windows: list[Any]) -> None:
        self.windows = windows

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self) -> None:
        pass

    def kl(self, path: Path, **_: object) -> Any:
        return np.full(len(self.windows), 1.0 / (1 + path.read_text().count("q8")))


@pytest.fixture(autouse=True)
def parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Moves, plans and verdicts without a model."""

    def search(_: object, choices: dict[str, float], budget: int, path: Path) -> PlannedArtefact:
        encodings = {name: "q8" if choices.get(name, 1) > 1 else "q4" for name in "abc"}
        path.write_text(json.dumps(encodings))
        return PlannedArtefact(file_bytes=1, predicted=0.0, encodings=encodings)

    def judge(windows: object, before: Any, after: Any) -> Any:
        mean = SimpleNamespace(before=before.mean(), after=after.mean(), half=0.0)
        return SimpleNamespace(mean=mean, worse=[], kept=bool(after.mean() < before.mean()))

    def moved(choices: object, groups: object, factors: dict[str, float]) -> dict[str, float]:
        return factors

    def first_moves(groups: object) -> list[tuple[str, float]]:
        return list(MOVES)

    monkeypatch.setattr(local_search, "search", search)
    monkeypatch.setattr(local_search, "judge", judge)
    monkeypatch.setattr(local_search, "moved", moved)
    monkeypatch.setattr(local_search, "first_moves", first_moves)
    yield


def run(folder: Path) -> None:
    """What `allocate`, `write` and `local-search` do: nothing is copied aside in between."""
    search, artefact, plan = Planner(folder), folder / NAME, folder / "plan.json"
    search.take_up(artefact)
    remove_kept(folder)
    plan.write_text(json.dumps(search.encodings))
    for path in folder.glob(".swaps-*"):
        if path.is_file():
            path.unlink()
    if artefact.exists():
        assert artefact.read_text() == plan.read_text(), "the file of another state"
    else:
        artefact.write_text(plan.read_text())
    search.run(artefact, plan, 9)


def killed(folder: Path, number: int, event: int) -> bool:
    """Run in a fork that gets a signal before a file event; False when it had ended before."""
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != EXIT
    count, inside = 0, os.getpid()

    def see(name: str, values: tuple[Any, ...]) -> None:
        nonlocal count
        writes = name == "open" and len(values) > 2 and bool(int(values[2] or 0) & os.O_CREAT)
        if (writes or name in STEPS) and os.getpid() == inside:
            count += 1
            if count == event + 1:
                os.kill(inside, number)

    sys.addaudithook(see)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = EXIT
    try:
        run(folder)
    except KeyboardInterrupt:
        code = 130
    except BaseException:  # noqa: BLE001 - a fork must not go on as pytest
        code = 1
    os._exit(code)


def files(folder: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in folder.iterdir() if p.is_file()}


def state_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "swaps.json").read_text())["k"]


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, str]:
    folder = tmp_path / "whole"
    folder.mkdir()
    run(folder)
    return files(folder)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_ended_at_any_point_it_goes_on_to_the_same_bytes(
    whole: dict[str, str], tmp_path: Path, number: int
) -> None:
    tries = json.loads(whole["swaps.json"])["k"]["tries"]
    assert sum(one["kept"] for one in tries) == 3 and set(whole) == {
        *("swaps.json", "plan.json", NAME)
    }
    event, early = -1, True
    while early:
        event += 1
        folder = tmp_path / f"at-{event}"
        folder.mkdir()
        early = killed(folder, number, event)
        run(folder)
        assert files(folder) == whole, f"ended before event {event}"
    assert event > 20, "there are events to be ended before"


def test_a_trial_of_another_state_is_not_taken_up(whole: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "whole"
    (folder / f"{local_search.KEPT}0123456789abcdef-{NAME}").write_text("another")
    run(folder)
    assert files(folder) == whole

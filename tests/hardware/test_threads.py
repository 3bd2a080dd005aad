"""Threads: as many as other programs leave room for."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from kanna._util import processes
from kanna.hardware import threads
from kanna.hardware.cpu import default_threads


def times(monkeypatch: pytest.MonkeyPatch, *idle_shares: float) -> None:
    """Let the processors of this machine be idle for these shares of every look."""
    looks = iter(range(100))

    def look(*, percpu: bool) -> list[Any]:
        assert percpu
        ticks = 100.0 * next(looks)
        return [_Times(user=ticks * (1 - share), idle=ticks * share) for share in idle_shares]

    monkeypatch.setattr(threads, "_last", None)
    monkeypatch.setattr(psutil, "cpu_times", look)
    monkeypatch.setattr(threads, "default_threads", lambda: len(idle_shares))
    monkeypatch.setattr(
        threads.os, "sched_getaffinity", lambda _: set(range(len(idle_shares))), raising=False
    )


class _Times(SimpleNamespace):
    """What psutil gives: fields that add up to all the time there was."""

    def __iter__(self) -> Any:
        return iter(vars(self).values())


@pytest.mark.parametrize(
    ("idle", "count"),
    [
        ((1, 1, 1, 1), 4),
        ((0.95, 0.9, 1, 0.9), 4),
        ((1, 1, 0, 0), 2),
        ((0.1, 0.2), 1),
        ((0, 0), 1),
        ((0,), 1),
    ],
)
def test_threads_are_those_that_others_leave(
    idle: tuple[float, ...], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    times(monkeypatch, *idle)
    choice = threads.choose_threads()
    assert (choice.count, choice.most) == (count, len(idle))
    assert bool(choice.remark) == (count < len(idle))
    if choice.remark:
        assert f"{count} of {len(idle)} threads" in choice.remark and "--threads" in choice.remark


def test_a_choice_holds_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    times(monkeypatch, 0, 0)
    assert threads.choose_threads() is threads.choose_threads()


def test_where_nothing_is_known_every_core_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    times(monkeypatch, 1, 1)

    def fail(*, percpu: bool) -> None:
        raise OSError

    monkeypatch.setattr(psutil, "cpu_times", fail)
    assert threads.idle_cpus(0.0) is None
    assert threads.choose_threads().count == 2


def test_this_machine_can_be_looked_at() -> None:
    idle = threads.idle_cpus(0.05)
    assert idle is None or 0 <= idle <= (psutil.cpu_count() or 1)
    assert 1 <= threads.choose_threads().count <= default_threads()


def test_waiting_threads_of_our_children_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)
    code = "import os; print(os.environ.get('GOMP_SPINCOUNT'))"

    def seen() -> str:
        command = [sys.executable, "-c", code]
        return subprocess.run(
            command, env=processes.environment(), capture_output=True, text=True, check=True
        ).stdout.strip()

    assert seen() == "5000"
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")  # whoever decided it keeps it
    assert seen() == "None"

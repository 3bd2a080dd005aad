"""A signal that comes while something is cleaned up waits for its end."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from kanna._util import interruption, locks, own_files
from kanna._util.interruption import Terminated, ending_orderly
from kanna._util.uninterrupted import uninterrupted


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)]
)
def test_cleaning_up_goes_to_its_end(number: int, error: type[BaseException]) -> None:
    done: list[str] = []
    before = signal.getsignal(number)
    with pytest.raises(error), ending_orderly(), uninterrupted(), uninterrupted():
        os.kill(os.getpid(), number)
        done.append("cleaned")
    assert done == ["cleaned"] and signal.getsignal(number) == before


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGTERM)
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("what", ["partial", "lock"])
def test_what_is_removed_goes_when_sigterm_comes_then(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = Path.unlink

    def ended(path: Path, missing_ok: bool = False) -> None:
        if threading.current_thread() is threading.main_thread():  # not what earlier tests left
            monkeypatch.setattr(Path, "unlink", unlink)
            os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):  # where Python looks for signals
            pass
        unlink(path, missing_ok=missing_ok)

    with pytest.raises(Terminated), ending_orderly():
        if what == "lock":
            with locks.holding(tmp_path / "out", "convert"):
                monkeypatch.setattr(Path, "unlink", ended)
        else:
            path = own_files.fresh_name(tmp_path / "out")
            own_files.create(path).close()
            monkeypatch.setattr(Path, "unlink", ended)
            own_files.remove(path)
    assert not list(tmp_path.iterdir())


def test_a_refusal_removes_the_lock_of_a_killed_run(tmp_path: Path) -> None:
    (tmp_path / ".out.kanna-lock").write_text("{}")
    locks.remove_stale(tmp_path / "out")
    assert not list(tmp_path.iterdir())
    with locks.holding(tmp_path / "out", "convert"):
        locks.remove_stale(tmp_path / "out")
        assert list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)]
)
def test_what_a_library_makes_of_a_signal_is_the_signal(
    number: int, error: type[BaseException]
) -> None:
    def half_imported() -> None:
        try:
            os.kill(os.getpid(), number)
            for _ in range(1000):  # where Python looks for signals
                pass
        except KeyboardInterrupt:
            pass
        raise ImportError("cannot load module more than once per process")

    with pytest.raises(error), ending_orderly():
        half_imported()
    with pytest.raises(ImportError), ending_orderly():
        raise ImportError("of another reason")
    with pytest.raises(ImportError), ending_orderly():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):
                pass
        except KeyboardInterrupt:
            interruption.answered()
        raise ImportError("of another reason")

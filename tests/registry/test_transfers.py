"""Files that go to or come from a registry side by side."""

from __future__ import annotations

from threading import Event, Lock

import pytest

from kanna._util.progress import Progress, Silent
from kanna.errors import RefusedError
from kanna.registry.transfers import AT_ONCE, Transfers


class Counted(Silent):
    """Bytes that were told."""

    def __init__(self) -> None:
        self.count = 0

    def advance(self, amount: int, detail: str = "") -> None:
        self.count += amount


def test_a_few_go_at_once_and_each_goes_once() -> None:
    lock, running, most = Lock(), 0, 0
    full = Event()

    def one(progress: Progress) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            if running == AT_ONCE:
                full.set()
        assert full.wait(10), "the others begin beside it"
        progress.advance(10)
        with lock:
            running -= 1
        return 10

    told = Counted()
    with Transfers[int]() as transfers:
        for number in range(7):
            transfers.begin(str(number), one)
            transfers.begin(str(number), one)
        transfers.wait("0")
        transfers.show(told)
        assert sum(transfers.wait(str(number)) for number in range(7)) == 70
    assert most == AT_ONCE and told.count == 70, "bytes of before `show` count, too"


def test_an_error_of_one_ends_the_others() -> None:
    ended = Event()

    def endless(progress: Progress) -> None:
        try:
            while not ended.wait(0.01):
                progress.advance(1)
        finally:
            ended.set()

    def refused(_: Progress) -> None:
        raise RefusedError("other bytes than those of its digest", expected="the blob")

    with pytest.raises(RefusedError, match="other bytes"), Transfers[None]() as transfers:
        transfers.begin("endless", endless)
        transfers.begin("refused", refused)
        transfers.wait("endless")
    assert ended.is_set(), "nobody is left at work"

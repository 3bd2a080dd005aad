"""The gateway's page in the browser, in front of a scripted gateway."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from helpers.browser import Browser
from helpers.chat_page import READY
from helpers.replay_gateway import Replay, Running


@pytest.fixture
def replay() -> Replay:
    """What the gateway says."""
    return Replay()


@pytest.fixture
def address(replay: Replay) -> Iterator[str]:
    """Where it listens."""
    running = Running(replay.app())
    yield running.address
    running.stop()


@pytest.fixture
def here(browser: Browser, address: str) -> Iterator[Browser]:
    """The page, loaded; it must not complain, nor ask anything of anybody else."""
    browser.open(address)
    browser.js("sessionStorage.clear()")
    browser.until(READY)
    yield browser
    assert browser.complaints == []
    outside = [u for u in browser.requested if not u.startswith((address, "about:", "data:"))]
    assert outside == []

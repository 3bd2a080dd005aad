"""The page of a comparison that goes on, one that was stopped, and one that was killed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from helpers.browser import Browser
from report.test_report import data

from kanna import report
from kanna.comparison import live_report
from kanna.comparison.live_report import LiveReport
from kanna.report import page as report_page

__all__ = ["data"]


def unfinished(data: dict[str, Any], *, stopped: bool = False, at: float = 1.5) -> dict[str, Any]:
    state = {"doing": "checking <Q8_0>", "stopped": stopped, "written": at}
    return data | {"unfinished": state}


def shown(browser: Browser) -> list[str]:
    """Headings of the boxes that a reader sees."""
    return browser.js(
        "[...document.querySelectorAll('main > section[aria-label]')]"
        ".filter((s) => s.getBoundingClientRect().height > 0).map((s) => s.ariaLabel)"
    )


def test_the_states_of_a_page(data: dict[str, Any]) -> None:
    growing = report.html_page(unfinished(data))
    assert "Being measured" in growing and "Checking &lt;Q8_0&gt;." in growing
    assert 'http-equiv="refresh"' in growing and "<script" not in growing
    assert "Written at 00:00:01 UTC" in growing
    stopped = report.html_page(unfinished(data, stopped=True))
    assert "Stopped" in stopped and "refresh" not in stopped and "Interrupted" not in stopped
    whole = report.html_page(data)
    assert "refresh" not in whole and "Being measured" not in whole and "Interrupted" not in whole


def test_a_page_that_nobody_writes_any_more_says_so(
    browser: Browser, data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_page, "REFRESH", 1)
    report.write_page(unfinished(data), tmp_path)
    browser.open((tmp_path / "report.html").as_uri())
    assert shown(browser) == ["Being measured"]
    # A living run writes again before the page is read again.
    report.write_page(unfinished(data, at=2.5), tmp_path)
    browser.until("document.getElementById('written-2500') !== null")
    assert shown(browser) == ["Being measured"]
    # And then it was killed.
    browser.until("location.hash === '#written-2500' && document.readyState === 'complete'")
    assert shown(browser) == ["Interrupted"]
    report.write_page(data, tmp_path)
    browser.open((tmp_path / "report.html").as_uri())
    assert "Interrupted" not in shown(browser)
    assert not browser.complaints


def test_a_living_run_writes_its_page_again(
    tmp_path: Path, data: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert live_report._BEAT * 3 < report_page.REFRESH
    monkeypatch.setattr(live_report, "_BEAT", 0.02)
    monkeypatch.setattr(LiveReport, "_result", lambda self, doing: Unfinished(data))
    live = LiveReport(
        context=None,  # type: ignore[arg-type]
        folder=tmp_path,
        formats=["gguf"],
        environment={},
        command="",
    )
    page = tmp_path / "report.html"
    with live.beating():
        live.show("checking")
        first, end = page.read_text(), time.monotonic() + 10
        while page.read_text() == first and time.monotonic() < end:
            time.sleep(0.02)
        assert page.read_text() != first
    last = page.read_text()
    time.sleep(0.1)
    assert page.read_text() == last, "nobody writes any more"


class Unfinished:
    """A result as far as the page needs it."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data

    def to_dict(self) -> dict[str, Any]:
        return unfinished(self.data)

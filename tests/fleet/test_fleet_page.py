"""The page of a fleet in a real Chromium: what devices say is text there."""

from __future__ import annotations

from pathlib import Path

from helpers import fleets
from helpers.browser import Browser

EVIL = "<img src=x onerror=\"document.title='taken'\">"


def test_the_page_shows_a_fleet_and_runs_nothing_of_it(browser: Browser, tmp_path: Path) -> None:
    with fleets.here(tmp_path / "fleet") as here:
        here.add("pi-1", target="raspberry-pi-5")
        here.publish(b"bad")
        number = here.rollout()
        here.check.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{EVIL}\nEND\nexit 1\n")
        assert EVIL in here.agent("pi-1").detail
        here.until(number, "stopped")
        browser.open(here.url)
        key = (here.folder / "viewer.key").read_text().strip()
        browser.js(f"document.querySelector('#key').value = '{key}'")
        browser.js("document.querySelector('#key-form button').click()")
        browser.until("document.querySelectorAll('#devices tbody tr').length === 1")
        shown = browser.js("document.querySelector('main').innerText")
        assert EVIL in shown and "stopped" in shown and "raspberry-pi-5" in shown
        assert "1 of 1 devices of ring 1 failed" in shown and key not in shown
        assert browser.js("document.querySelectorAll('main img').length") == 0
        assert browser.js("document.title") == "kanna fleet"
        browser.js("document.querySelector('#key').value = 'kanna-0-wrong'")
        browser.js("document.querySelector('#key-form button').click()")
        browser.until("document.querySelector('#state').textContent.includes('no valid key')")
        outside = [u for u in browser.requested if not u.startswith((here.url, "about:"))]
        assert not outside

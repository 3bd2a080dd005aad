"""The web page in a real Chromium, against a scripted gateway and against the real one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from helpers.browser import Browser
from helpers.chat_page import READY, ask, done
from helpers.page_checks import CONTRAST, FITS, SMALL
from helpers.replay_gateway import Replay

from kanna.serving import page

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"

# What is served


def test_files_are_served_under_a_strict_policy(address: str) -> None:
    import httpx

    for path, (kind, content) in page.files().items():
        answer = httpx.get(address.rstrip("/") + path)
        assert answer.status_code == 200 and answer.content == content
        assert answer.headers["content-type"].startswith(kind)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    for outside in ("page/../__init__.py", "page/__init__.py", "page/%2e%2e/page.py", "page/"):
        assert httpx.get(address + outside).status_code == 404


def test_nothing_inline_and_nothing_parsed_as_html() -> None:
    html = (page.FOLDER / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=|https?:", html)
    for script in page.FOLDER.glob("*.js"):
        text = script.read_text()
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text
        ), script
        assert "http" not in text.replace("http://www.w3.org/2000/svg", ""), script


def test_every_label_of_the_page_leads_to_something() -> None:
    html = (page.FOLDER / "index.html").read_text()
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    pointed = re.findall(r'(?:aria-controls|aria-labelledby|aria-describedby|for)="([^"]+)"', html)
    assert set(pointed) <= set(ids)
    for script in page.FOLDER.glob("*.js"):
        assert set(re.findall(r'\$\("([\w-]+)"\)', script.read_text())) <= set(ids), script


# Compare


def test_two_models_side_by_side(here: Browser, replay: Replay) -> None:
    here.js("document.querySelector('#tab-compare').click()")
    assert (
        here.js(
            "[document.querySelector('#model-a').value, document.querySelector('#model-b').value]"
        )
        == replay.names
    )
    here.js("document.querySelector('#compare-input').focus()")
    here.type("hello")
    here.press("Enter", modifiers=2)
    verdict = here.until("document.querySelector('#verdict').textContent")
    assert re.search(r"tiny-Q4_K_M \(A\) writes \d(\.\d+)? × as fast\. Both say the same", verdict)
    assert [b["model"] for b in replay.bodies] == replay.names and all(
        b["temperature"] == 0 for b in replay.bodies
    )
    speeds = here.js(
        "[...document.querySelectorAll('.figures')]"
        ".map(f => parseFloat(f.querySelectorAll('dd')[1].textContent))"
    )
    assert speeds[0] > speeds[1] > 0
    here.js(
        "document.querySelector('#compare-together').click();"
        "document.querySelector('#compare-run').click()"
    )
    here.until("document.querySelector('#verdict').textContent === ''")
    here.until("document.querySelector('#verdict').textContent !== ''")
    assert len(replay.bodies) == 4


# Watch


def test_metrics_are_live(here: Browser, replay: Replay) -> None:
    here.js("document.querySelector('#tab-watch').click()")
    here.until("document.querySelectorAll('.card').length === 9")
    here.until(
        "parseFloat(document.querySelectorAll('.card .value')[0].textContent) > 0", timeout=8
    )
    page_text = here.js("document.querySelector('#view-watch').innerText")
    assert "241.0" in page_text and "37" in page_text and "tiny-Q8_0" in page_text
    here.js("document.querySelector('#tab-chat').click()")
    here.js("new Promise(r => setTimeout(r, 300))")
    polls = replay.polls
    here.js("new Promise(r => setTimeout(r, 2500))")
    assert replay.polls == polls, "nobody looks: nothing is asked"


def test_quantiles_are_those_of_prometheus(here: Browser, address: str) -> None:
    code = f"import('{address}page/watch.js').then(m => "
    assert here.js(code + "m.quantile(0.5, [[1, 10], [2, 20], [Infinity, 20]]))") == 1
    assert here.js(code + "m.quantile(0.75, [[1, 10], [2, 20], [Infinity, 20]]))") == 1.5
    assert here.js(code + "m.quantile(0.99, [[1, 0], [Infinity, 5]]))") == 1
    assert here.js(code + "m.quantile(0.5, []))") is None
    few = "[[1, 0], [30, {0}], [Infinity, {0}]]"
    assert here.js(code + f"m.estimate(0.95, {few.format(1)}, 2.5))") == 2.5, "it is known"
    assert here.js(code + f"m.estimate(0.95, {few.format(19)}, 50))") is None, "too few to tell"
    assert here.js(code + f"m.estimate(0.5, {few.format(19)}, 50))") == 15.5
    assert here.js(code + f"m.estimate(0.95, {few.format(20)}, 50))") == pytest.approx(28.55)
    line = 'a_total{model="x \\\\"y\\\\"",le="+Inf"} 3e2'
    assert here.js(code + f"m.parse('{line}'))") == [
        ["a_total", {"model": 'x "y"', "le": "+Inf"}, 300]
    ]


# Keys


def test_keys_are_made_shown_once_and_revoked(here: Browser, replay: Replay) -> None:
    here.js("document.querySelector('#tab-keys').click()")
    assert "night job <i>" in here.until("document.querySelector('#keys-list table')?.innerText")
    here.js("document.querySelector('#keys-name').focus()")
    here.type("laptop")
    here.press("Enter")
    assert (
        here.until("document.querySelector('.secret')?.textContent") == "sk-kanna-3f9a-shown-once"
    )
    here.until("document.querySelectorAll('#keys-list tbody tr').length === 3")
    assert replay.keys[-1]["scopes"] == ["infer"]
    here.js(
        "document.querySelector('#tab-chat').click(); document.querySelector('#tab-keys').click()"
    )
    assert here.js("document.querySelector('.secret')") is None
    here.js("document.querySelector('[aria-label=\"Revoke the key laptop\"]').click()")
    here.until("document.querySelector('#ask-dialog').open")
    here.press("Escape")
    assert replay.keys[-1]["revoked"] is None, "asked, and not done"
    here.js("document.querySelector('[aria-label=\"Revoke the key laptop\"]').click()")
    here.until("document.querySelector('#ask-dialog').open")
    here.js("document.querySelector('#ask-yes').click()")
    here.until("document.querySelector('#keys-list tr.over')")
    assert replay.keys[-1]["revoked"]


# For everybody


def test_it_works_with_a_keyboard_alone(here: Browser, replay: Replay) -> None:
    here.js("document.activeElement.blur()")
    seen: list[str] = []
    for _ in range(12):
        here.press("Tab")
        seen.append(
            here.js(
                "document.activeElement.id || document.activeElement.className"
                " || document.activeElement.tagName"
            )
        )
    wanted = ["skip", "tab-chat", "key-button", "chat-model", "SUMMARY"]
    assert [s for s in dict.fromkeys(seen) if s in wanted] == wanted, seen
    here.js("document.querySelector('#tab-chat').focus()")
    here.press("ArrowRight")
    assert here.js("document.activeElement.id") == "tab-compare" and here.js(
        "!document.querySelector('#view-compare').hidden"
    )
    here.press("End")
    assert here.js("location.hash") == "#keys"
    here.press("ArrowRight")
    assert here.js("document.activeElement.id") == "tab-chat"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(here: Browser, address: str, scheme: str) -> None:
    """Contrast of 4.5 to 1 or more, of every text against what lies behind it (WCAG AA)."""
    here.open(address, scheme=scheme)
    here.until(READY)
    ask(here, "hello")
    done(here)
    poor: list[str] = []
    for view in ("chat", "compare", "watch", "keys"):
        here.js(f"document.querySelector('#tab-{view}').click()")
        here.js("new Promise(r => setTimeout(r, 150))")
        poor += here.js(CONTRAST)
    assert poor == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("device", "width", "height"), [("desktop", 1280, 860), ("phone", 390, 844)]
)
def test_pictures(
    here: Browser, replay: Replay, address: str, device: str, width: int, height: int, scheme: str
) -> None:
    """Nothing runs over the edge, everything can be hit.

    Pictures to look at stay in build/screenshots.
    """

    def take(name: str) -> None:
        assert here.js(FITS), f"{name} is wider than the window"
        if device == "phone":
            assert here.js(SMALL) == [], f"{name} has targets too small to hit"
        picture = here.picture(SCREENSHOTS / f"page-{name}-{device}-{scheme}.png")
        assert picture.stat().st_size > 8_000

    here.open(address, width=width, height=height, scheme=scheme)
    here.until(READY)
    take("empty")
    ask(here, "hello")
    done(here)
    ask(here, "Which wood is best for a first plane, and why would one choose it over the others?")
    done(here)
    take("chat")
    replay.fault = (429, "This key may ask 3 times a minute.", "17")
    ask(here, "once more")
    done(here)
    take("error")
    replay.fault = None
    here.js("document.querySelector('#tab-compare').click()")
    here.js(
        "document.querySelector('#compare-input').value = 'hello';"
        "document.querySelector('#compare-run').click()"
    )
    here.until("document.querySelector('#verdict').textContent")
    take("compare")
    here.js("document.querySelector('#tab-watch').click()")
    here.until(
        "parseFloat(document.querySelectorAll('.card .value')[0]?.textContent) > 0", timeout=8
    )
    take("watch")
    here.js("document.querySelector('#tab-keys').click()")
    here.until("document.querySelector('#keys-list table')")
    take("keys")


# The gateway itself


def new_key(state: Path) -> str:
    """A key with every scope."""
    scopes = [word for scope in ("infer", "metrics", "admin") for word in ("--scope", scope)]
    command = [sys.executable, "-m", "kanna", "keys", "create", "--name", "me", *scopes]
    created = subprocess.run(
        [*command, "--state", str(state), "--json"], capture_output=True, text=True, check=True
    )
    return json.loads(created.stdout)["key"]


def start_gateway(model: Path, state: Path) -> subprocess.Popen[str]:
    # One thread: two that wait for each other crawl where other programs keep the cores busy.
    options = ["--keys", "--port", "0", "--context", "512", "--parallel", "2", "--threads", "1"]
    command = [sys.executable, "-m", "kanna", "serve", f"one={model}", f"two={model}", *options]
    return subprocess.Popen(
        [*command, "--state", str(state)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_page_of_the_real_gateway(browser: Browser, smollm2: Path, tmp_path: Path) -> None:
    """A model, keys and metrics as `kanna serve` has them; the same file twice, under two names."""
    pytest.importorskip("xllamacpp")
    key = new_key(tmp_path)
    gateway = start_gateway(smollm2, tmp_path)
    try:
        assert gateway.stderr
        log = ""
        for line in gateway.stderr:
            log += line
            if address := re.search(r"at (http://\S+)/v1", line):
                break
        else:
            pytest.fail(log)
        # Whatever else it says must not fill the pipe.
        threading.Thread(target=gateway.stderr.read, daemon=True).start()
        browser.open(f"{address[1]}/")
        browser.until("document.querySelector('.notice button.main')")
        browser.js("document.querySelector('.notice button.main').click()")
        browser.until("document.querySelector('#key-dialog').open")
        browser.type(key)
        browser.press("Enter")
        browser.until("document.querySelector('#chat-model').value === 'one'")
        browser.js("document.querySelector('#chat-max').value = '24'")
        ask(browser, "Say hello.")
        browser.until("document.querySelector('.turn.model .about span')", timeout=60)
        page_text = done(browser)
        assert "tokens/s" in page_text and "first token" in page_text, page_text
        browser.js("document.querySelector('#tab-compare').click()")
        browser.js("document.querySelector('#compare-max').value = '16'")
        browser.js("document.querySelector('#compare-input').value = 'Count to five.'")
        browser.js("document.querySelector('#compare-run').click()")
        assert "to the letter" in browser.until(
            "document.querySelector('#verdict').textContent", timeout=90
        )
        browser.js("document.querySelector('#tab-watch').click()")
        row = browser.until("document.querySelector('#watch-models tbody')?.innerText", timeout=20)
        assert re.search(r"one\s+2\s+\d+\s+0\s", row) and re.search(r"two\s+1\s", row), row
        browser.js("document.querySelector('#tab-keys').click()")
        row = browser.until("document.querySelector('#keys-list tbody')?.innerText", timeout=20)
        assert "me" in row and "admin" in row
        assert browser.complaints == []
    finally:
        browser.js("sessionStorage.clear()")
        gateway.terminate()
        gateway.wait(20)

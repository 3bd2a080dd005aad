"""The web page in a real Chromium, against a scripted gateway and against the real one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.browser import Browser
from helpers.page_checks import CONTRAST, FITS, SMALL
from helpers.replay_gateway import Replay, Running

from kanna.serving import page

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
READY = "document.querySelector('#chat-model').value === 'tiny-Q4_K_M'"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    made = Browser(tmp_path_factory.mktemp("browser") / "profile")
    yield made
    made.close()


@pytest.fixture
def replay() -> Replay:
    return Replay()


@pytest.fixture
def address(replay: Replay) -> Iterator[str]:
    running = Running(replay.app())
    yield running.address
    running.stop()


@pytest.fixture
def here(browser: Browser, address: str) -> Iterator[Browser]:
    """The page, loaded; it must not complain, nor ask anything of anybody else."""
    browser.complaints.clear()
    browser.requested.clear()
    browser.open(address)
    browser.js("sessionStorage.clear()")
    browser.until(READY)
    yield browser
    assert browser.complaints == []
    outside = [u for u in browser.requested if not u.startswith((address, "about:", "data:"))]
    assert outside == []


def ask(browser: Browser, text: str) -> None:
    browser.js("document.querySelector('#chat-input').focus()")
    browser.type(text)
    browser.press("Enter")


IDLE = "document.querySelector('#chat-send').textContent === 'Send'"


def done(browser: Browser) -> str:
    """The last turn, once it has ended."""
    browser.until(
        f"{IDLE} && !document.querySelector('[aria-busy]') && document.querySelector('.turn.model')"
    )
    return browser.js("[...document.querySelectorAll('.turn.model')].at(-1).innerText")


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


# Chat


def test_chat_streams_and_tells_its_speed(here: Browser, replay: Replay) -> None:
    ask(here, "hello")
    here.until("document.querySelector('.turn.busy')")
    page_text = done(here)
    assert "hand plane" in page_text and "tokens/s" in page_text and "first token" in page_text
    assert here.js("document.querySelectorAll('.turn.model li').length") == 2
    assert "for shaving in plane(wood):" in here.js(
        "document.querySelector('.turn.model pre').textContent"
    )
    assert here.js("document.querySelector('.turn.model strong').textContent") == "hand plane"
    ask(here, "and now?")
    done(here)
    roles = [m["role"] for m in replay.bodies[-1]["messages"]]
    assert roles == ["user", "assistant", "user"], "what was said before goes along"
    here.js("document.querySelector('#chat-new').click()")
    assert here.until("document.querySelector('.empty')") and not here.js(
        "document.querySelector('.turn')"
    )


def test_output_of_a_model_is_text(here: Browser) -> None:
    ask(here, "evil")
    assert '<img src=x onerror="window.owned=1">' in done(here)
    assert here.js("window.owned") is None
    assert (
        here.js(
            "document.querySelectorAll('#chat-log :is(img, script, a, b, iframe, style)').length"
        )
        == 0
    )


def test_stopping_reaches_the_gateway(here: Browser, replay: Replay) -> None:
    ask(here, "long")
    here.until("document.querySelector('.turn.busy')")
    here.press("Escape")
    assert "Stopped by you" in done(here)
    here.until("true")
    for _ in range(100):
        if replay.cancelled:
            break
        here.js("new Promise(r => setTimeout(r, 20))")
    assert replay.cancelled == 1


def test_a_reply_that_was_cut_off_says_so(here: Browser, replay: Replay) -> None:
    here.js("document.querySelector('#chat-max').value = '5'")
    ask(here, "hello")
    assert "Cut off at 5 tokens" in done(here)
    assert replay.bodies[-1]["max_tokens"] == 5


def attach(browser: Browser, *files: Path) -> None:
    root = browser.send("DOM.getDocument")["root"]["nodeId"]
    node = browser.send("DOM.querySelector", nodeId=root, selector="#chat-file")["nodeId"]
    browser.send("DOM.setFileInputFiles", files=[str(file) for file in files], nodeId=node)


def test_text_files_go_along(here: Browser, replay: Replay, tmp_path: Path) -> None:
    text, other, picture = (tmp_path / name for name in ("a.md", "b.txt", "c.png"))
    text.write_text("one `x`\n```\ncode\n```\n")
    other.write_text("two")
    picture.write_bytes(b"\x89PNG\x00\xff")
    attach(here, text, picture)
    here.until("document.querySelectorAll('#chat-files .chip').length === 1")
    shown = here.js("document.querySelector('#chat-files').innerText")
    assert "a.md · 21 B" in shown and "c.png is no text" in shown
    attach(here, other)
    here.until("document.querySelectorAll('#chat-files .chip').length === 2")
    here.js("document.querySelectorAll('#chat-files .chip button')[1].click()")
    ask(here, "hello")
    done(here)
    content = replay.bodies[-1]["messages"][0]["content"]
    assert content == "a.md:\n````\none `x`\n```\ncode\n```\n````\n\nhello"
    assert "a.md · 21 B" in here.js("document.querySelector('.turn.user').innerText")
    assert here.js("document.querySelector('#chat-files').hidden")
    ask(here, "and now?")
    done(here)
    assert set(replay.bodies[-1]["messages"][0]) == {"role", "content"}


def test_chats_are_kept_when_asked(here: Browser, replay: Replay, address: str) -> None:
    kept = "document.querySelector('#chat-list').innerText"
    ask(here, "hello")
    done(here)
    assert here.js("localStorage.length") == 0, "nothing is kept before"
    assert "Nothing is kept" in here.js("document.querySelector('#chat-memory').textContent")
    here.js("document.querySelector('#chat-keep').click()")
    here.until(f"{kept}.includes('hello') || localStorage.getItem('kanna-chats')")
    here.js("document.querySelector('#chat-new').click()")
    ask(here, "evil")
    done(here)
    here.open(address)
    here.until(READY)
    here.until("!document.querySelector('#chat-kept').hidden")
    here.js("document.querySelector('#chat-kept').open = true")
    assert here.js(kept).split("\n")[::2] == ["evil", "hello"]
    here.js("document.querySelectorAll('#chat-list button')[0].click()")
    here.until("document.querySelectorAll('.turn').length === 2")
    assert here.js("document.querySelectorAll('#chat-log :is(img, script, a, b)').length") == 0
    ask(here, "and now?")
    done(here)
    contents = [m["content"] for m in replay.bodies[-1]["messages"] if m["role"] == "user"]
    assert contents == ["evil", "and now?"]
    here.js("document.querySelectorAll('#chat-list button')[3].click()")
    assert here.js("JSON.parse(localStorage.getItem('kanna-chats')).length") == 1
    here.js("document.querySelector('#chat-keep').click()")
    here.until("document.querySelector('#ask-dialog').open")
    here.js("document.querySelector('#ask-yes').click()")
    here.until("document.querySelector('#chat-kept').hidden")
    assert here.js("localStorage.length") == 0


def test_what_storage_holds_is_not_trusted(here: Browser, address: str) -> None:
    here.js("localStorage.setItem('kanna-keep-chats', 'yes')")
    for broken in ("{", "5", '[{"id": 1}, {"id": "a", "title": "x", "turns": [{"role": "king"}]}]'):
        here.js(f"localStorage.setItem('kanna-chats', {json.dumps(broken)})")
        here.open(address)
        here.until(READY)
        assert here.js("document.querySelector('#chat-list').textContent") == "None yet."
    here.js("localStorage.clear()")


@pytest.mark.parametrize(
    ("fault", "explanation"),
    [
        ((429, "This key may ask 3 times a minute.", "17"), "Try again in 17 s."),
        ((503, "The queue is full.", ""), "Try again in a moment."),
        ((400, "The prompt is longer than the context.", ""), "longer than the context"),
        ((500, "<b>boom</b>", ""), "<b>boom</b>"),
    ],
)
def test_errors_say_what_to_do(
    here: Browser, replay: Replay, fault: tuple[int, str, str], explanation: str
) -> None:
    replay.fault = fault
    ask(here, "hello")
    page_text = done(here)
    assert fault[1] in page_text and explanation in page_text
    replay.fault = None
    here.js(
        "[...document.querySelectorAll('.notice button')]"
        ".find(b => b.textContent === 'Try again').click()"
    )
    here.until("document.querySelector('.turn.model li')")
    done(here)
    assert not here.js("document.querySelector('.notice')"), "the error is gone with its cause"


def test_a_stream_that_breaks_off_keeps_what_came(here: Browser) -> None:
    ask(here, "broken")
    page_text = done(here)
    assert "You said: broken" in page_text and "broke off" in page_text


def test_a_key_is_asked_for_and_kept_in_the_tab(
    here: Browser, replay: Replay, address: str
) -> None:
    replay.key = "sk-secret"
    here.open(address)
    here.until("document.querySelector('.notice')")
    here.js("document.querySelector('.notice button.main').click()")
    here.until("document.querySelector('#key-dialog').open")
    assert here.js("document.activeElement.id") == "key-input"
    here.type("sk-secret")
    here.press("Enter")
    here.until(READY)
    assert here.js("document.querySelector('#key-label').textContent") == "Key in use"
    assert "sk-secret" not in here.js(
        "document.documentElement.outerHTML + location.href + document.cookie"
    )
    assert here.js("localStorage.length") == 0
    ask(here, "hello")
    assert "hand plane" in done(here)
    here.js("sessionStorage.clear()")


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
        browser.complaints.clear()
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

"""The page's chat in a real Chromium, against a scripted gateway."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.browser import Browser
from helpers.chat_page import READY, ask, done
from helpers.replay_gateway import Replay


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

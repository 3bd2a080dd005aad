"""What tests do on the page of the gateway: ask, and wait for the reply."""

from __future__ import annotations

from helpers.browser import Browser

READY = "document.querySelector('#chat-model').value === 'tiny-Q4_K_M'"
IDLE = "document.querySelector('#chat-send').textContent === 'Send'"


def ask(browser: Browser, text: str) -> None:
    """Type a message and send it."""
    browser.js("document.querySelector('#chat-input').focus()")
    browser.type(text)
    browser.press("Enter")


def done(browser: Browser) -> str:
    """The last turn, once it has ended."""
    browser.until(
        f"{IDLE} && !document.querySelector('[aria-busy]') && document.querySelector('.turn.model')"
    )
    return browser.js("[...document.querySelectorAll('.turn.model')].at(-1).innerText")

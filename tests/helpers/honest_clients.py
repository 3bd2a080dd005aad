"""Honest clients: what they ask, what they get, and what was delivered to them."""

from __future__ import annotations

import http.client
import json
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit


@dataclass(slots=True)
class Outcome:
    """One request.

    Attributes:
        status: Of HTTP; 0: no answer came.
        text: Of the answer.
        broken: Its stream ended with an error.
        code: Of the error.
        retry_after: Whether the error says when to send it again.
        prompt: Tokens to be paid for.
        completion: The same; of a broken stream, the events that came.
        created: When the answer was made, by the gateway's clock.
    """

    status: int
    text: str = ""
    broken: bool = False
    code: str = ""
    retry_after: bool = False
    prompt: int = 0
    completion: int = 0
    created: int = 0

    @property
    def retryable(self) -> bool:
        """Whether it may be sent again: its engine ended."""
        sendable = self.broken or (self.status == 503 and self.retry_after)
        return sendable and self.code == "engine_restarting"


def ask(url: str, key: str, body: dict[str, Any], timeout: float = 90) -> Outcome:
    """Send a completion."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=timeout)
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    try:
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        response = connection.getresponse()
        if response.status == 200 and body.get("stream"):
            return _streamed(response)
        answer = json.loads(response.read())
        if response.status != 200:
            retry = response.getheader("retry-after") is not None
            error = answer["error"]
            code = error["code"] or error["message"]
            return Outcome(response.status, error["message"], code=code, retry_after=retry)
        outcome = Outcome(200, answer["choices"][0]["text"], created=answer["created"])
        return _paid(outcome, answer["usage"])
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Outcome(0, repr(error))
    finally:
        connection.close()


def _streamed(response: http.client.HTTPResponse) -> Outcome:
    outcome, usage, done = Outcome(200), None, False
    for line in response:
        data = line.removeprefix(b"data: ").strip()
        if data == b"[DONE]":
            done = True
        elif data.startswith(b"{"):
            chunk = json.loads(data)
            if error := chunk.get("error"):
                outcome.broken, outcome.code = True, error["code"]
                continue
            usage = chunk.get("usage") or usage
            outcome.created = chunk["created"]
            if chunk["choices"]:
                outcome.completion += 1
                outcome.text += chunk["choices"][0]["text"]
    if not done and not outcome.broken:
        return Outcome(0, "the stream has no end")
    return _paid(outcome, usage) if usage else outcome


def _paid(outcome: Outcome, usage: dict[str, int]) -> Outcome:
    outcome.prompt, outcome.completion = usage["prompt_tokens"], usage["completion_tokens"]
    return outcome


@dataclass
class Record:
    """What all honest clients met together."""

    answered: int = 0
    broken: int = 0
    prompt: int = 0
    completion: int = 0
    seconds: list[float] = field(default_factory=list)
    retried: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    earliest: int = 1 << 62
    latest: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, outcome: Outcome, seconds: float, expected: str, what: str) -> bool:
        """Count one; whether it has to be sent again."""
        with self.lock:
            self.prompt += outcome.prompt
            self.completion += outcome.completion
            if outcome.created:
                self.earliest = min(self.earliest, outcome.created)
                self.latest = max(self.latest, outcome.created)
            if outcome.retryable:
                self.broken += outcome.broken
                self.retried[outcome.code] += 1
                return True
            self.seconds.append(seconds)
            if outcome.status != 200 or outcome.broken:
                self.wrong.append(f"{what}: {outcome}")
            elif outcome.text != expected:
                self.wrong.append(f"{what}: {outcome.text!r} instead of {expected!r}")
            else:
                self.answered += 1
        return False

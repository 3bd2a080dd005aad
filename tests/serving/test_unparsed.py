"""Answers that llama.cpp can make no tool call of reach the client as the text they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from helpers.gateways import Local, local

from kanna.serving import sse, unparsed

MESSAGES: Any = [{"role": "user", "content": "five!"}]
TOOLS: Any = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
REFUSALS = [
    "The model produced output that does not match the expected Hermes 2 Pro format",
    "Failed to parse input at pos 12: <tool_call>",
    "Invalid diff: now finding less tool calls!",
]


@pytest.fixture(scope="module")
def gateway(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    with local(tiny_gguf, tmp_path_factory.mktemp("unparsed")) as running:
        yield running


def _client(gateway: Local) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="x", max_retries=0)


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("choices", [1, 2])
def test_it_is_the_content(gateway: Local, refusal: str, choices: int) -> None:
    answer = _client(gateway).chat.completions.create(
        model="m",
        messages=MESSAGES,
        tools=TOOLS,
        n=choices,
        extra_body={"replay": {"refusal": refusal, "tokens": 3}},
    )
    assert [c.message.content for c in answer.choices] == ["xxx"] * choices
    assert all(not c.message.tool_calls for c in answer.choices)
    assert answer.object == "chat.completion" and answer.usage
    assert answer.usage.completion_tokens == 3 * choices
    assert gateway.log()[-1]["completion_tokens"] == 3 * choices
    asked = gateway.engine()["bodies"][-1]
    assert asked["prompt"] == "five!" and not {"messages", "tools", "tool_choice"} & {*asked}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_stream_ends_as_text(gateway: Local, refusal: str) -> None:
    chunks = [
        *_client(gateway).chat.completions.create(
            model="m",
            messages=MESSAGES,
            tools=TOOLS,
            stream=True,
            extra_body={"replay": {"refusal": refusal, "tokens": 3}},
        )
    ]
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "xxx" and chunks[-1].choices[0].finish_reason == "stop"
    assert len({c.id for c in chunks}) == 1


@pytest.mark.parametrize("stream", [True, False])
def test_other_failures_stay_failures(gateway: Local, stream: bool) -> None:
    body = {"model": "m", "messages": MESSAGES, "stream": stream}
    answer = httpx.post(
        f"{gateway.url}/v1/chat/completions",
        json=body | {"replay": {"refusal": "out of memory", "tokens": 2}},
        timeout=30,
    )
    assert '"error"' in answer.text
    if not stream:
        assert answer.status_code == 502
        assert answer.json()["error"]["code"] == "engine_failed"


def test_what_a_model_says_about_errors_is_no_error() -> None:
    said = sse.encode({"id": "a", "choices": [{"delta": {"content": REFUSALS[0]}}]})
    assert unparsed.ended_as_text(said, b"", "m") is None
    assert unparsed.ended_as_text(sse.encode({"error": {"message": "gone"}}), said, "m") is None

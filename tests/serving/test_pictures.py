"""Pictures in chats: seen where there is a vision tower, and refused by the gateway itself."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from helpers import gateway_process as gateway
from helpers import picture_files, tiny_vision
from helpers.gateway_process import Running

from kanna.errors import FormatError, UsageError
from kanna.serving import arguments, registration
from kanna.serving.settings import GatewaySettings


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vision.pair("gemma3", tmp_path_factory)


@pytest.fixture(scope="module")
def running(pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    state = tmp_path_factory.mktemp("state")
    served = gateway.start(
        pair / "text.gguf",
        state,
        "--mmproj",
        str(pair / "mmproj.gguf"),
        f"plain={pair / 'text.gguf'}",
    )
    yield served
    gateway.stop(served)


def url_of(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def ask(running: Running, *urls: str, model: str = "small", **options: Any) -> Any:
    pictures = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    content: Any = [*pictures, {"type": "text", "text": "What is this?"}]
    return running.client().chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": content}],
        max_tokens=4,
        temperature=0,
        **options,
    )


def test_a_chat_sees_its_pictures(running: Running, pair: Path) -> None:
    cat = url_of((pair / "cat.png").read_bytes())
    black = url_of(picture_files.png(tiny_vision.picture("gemma3") * 0))
    seen, without = ask(running, cat, logprobs=True), ask(running)
    assert seen.choices[0].message.content is not None and seen.usage.completion_tokens == 4
    assert seen.usage.prompt_tokens > without.usage.prompt_tokens + 4
    dark = ask(running, black, logprobs=True)
    first, other = (a.choices[0].logprobs.content[0] for a in (seen, dark))
    assert (first.token, first.logprob) != (other.token, other.logprob)
    both = ask(running, cat, url_of(picture_files.jpeg(64, 32), "jpeg"))
    assert both.usage.prompt_tokens > seen.usage.prompt_tokens + 4
    streamed = list(ask(running, cat, stream=True, stream_options={"include_usage": True}))
    assert streamed[-1].usage.prompt_tokens == seen.usage.prompt_tokens
    status = json.loads(running.get("/status")[1])
    towers = {m["name"]: m["mmproj"] for m in status}
    assert towers == {"small": str(pair / "mmproj.gguf"), "plain": None}


def test_pictures_are_refused_before_an_engine_sees_them(running: Running, pair: Path) -> None:
    cat = (pair / "cat.png").read_bytes()
    cases = {
        "https://pictures.example/cat.png": "not fetched",
        "file:///etc/passwd": "not fetched",
        "data:image/png,plain": "the picture itself",
        "data:image/png;base64,%%%": "not base64",
        url_of(b"GIF89a" + bytes(20)): "a GIF",
        url_of(cat[:-9]): "truncated",
        url_of(picture_files.claiming(30_000, 30_000)): "30000 × 30000",
        url_of(picture_files.claiming(400, 400)): "cannot be decoded",
    }
    for url, words in cases.items():
        with pytest.raises(openai.BadRequestError, match=words):
            ask(running, url)
    with pytest.raises(openai.BadRequestError, match="more than 16 pictures"):
        ask(running, *[url_of(cat)] * 17)
    with pytest.raises(openai.BadRequestError, match="--mmproj"):
        ask(running, url_of(cat), model="plain")
    with pytest.raises(openai.BadRequestError, match="text and pictures"):
        running.client().chat.completions.create(
            model="small",
            messages=[{"role": "user", "content": [{"type": "input_audio"}]}],  # type: ignore
        )
    status = json.loads(running.get("/status")[1])
    assert next(m for m in status if m["name"] == "small")["restarts"] == 0
    assert ask(running, url_of(cat)).usage.completion_tokens == 4


def test_a_tower_of_another_model_is_refused_at_the_start(pair: Path, tmp_path: Path) -> None:
    text = pair / "text.gguf"
    specs = arguments.parse_models([f"small={text}"], [])
    arguments.add_companions(specs, [], [], [f"small={text}"])
    with pytest.raises(FormatError, match="no vision tower"):
        registration.register(specs[0], GatewaySettings(context=64, slots=1), 1 << 40)
    with pytest.raises(UsageError, match="two vision towers"):
        arguments.add_companions(specs, [], [], [text])
    specs = arguments.parse_models([f"small={text}"], [])
    plain = registration.register(specs[0], GatewaySettings(context=64, slots=1), 1 << 40)
    arguments.add_companions(specs, [], [], [pair / "mmproj.gguf"])
    seeing = registration.register(specs[0], GatewaySettings(context=64, slots=1), 1 << 40)
    assert seeing.bytes > plain.bytes + (pair / "mmproj.gguf").stat().st_size

"""ONNX, MLX and OpenVINO folders behind the gateway.

What transformers says, said by all, alone and together.
"""

from __future__ import annotations

import asyncio
import base64
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import openai
import pytest
from helpers import engine_artefacts, picture_files, tiny_models
from helpers.gateways import Local, local, until

from kanna.formats.file_states import FileStates
from kanna.serving import process, server
from kanna.serving.engines.base import EngineConfig
from kanna.serving.process import EngineProcess

PROMPTS = [
    "Once upon a time",
    "1234",
    "The quick brown fox jumps over the lazy dog. It's what",
    "hola",
    "for i in",
]
CAT = {
    "type": "image_url",
    "image_url": {
        "url": "data:image/jpeg;base64," + base64.b64encode(picture_files.jpeg(8, 8)).decode()
    },
}
MESSAGES: Any = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A tiny model as transformers has it, whose answers do not end by themselves too soon."""
    folder = tmp_path_factory.mktemp("source")
    return folder, engine_artefacts.source(folder)


@pytest.fixture(scope="module", params=["onnx", "mlx", "openvino"])
def gateway(
    request: pytest.FixtureRequest,
    source: tuple[Path, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Local]:
    out = engine_artefacts.artefact(
        request.param, source[0], tmp_path_factory.mktemp(request.param) / "model"
    )
    with local(out, tmp_path_factory.mktemp("gateway"), slots=3, replay=False) as running:
        yield running


@pytest.fixture(scope="module")
def client(gateway: Local) -> openai.OpenAI:
    return openai.OpenAI(base_url=gateway.url + "/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def tokenizer(source: tuple[Path, Any]) -> Any:
    import tokenizers

    return tokenizers.Tokenizer.from_file(str(source[0] / "tokenizer.json"))


def logits(model: Any, ids: list[int]) -> Any:
    """f64 [len(ids), vocab_size]"""
    import torch

    torch.set_num_threads(1)
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].double().numpy()


def greedy(model: Any, ids: list[int], count: int) -> list[int]:
    sequence = list(ids)
    for _ in range(count):
        sequence.append(int(logits(model, sequence)[-1].argmax()))
        if sequence[-1] == model.config.eos_token_id:
            break
    return sequence[len(ids) :]


def test_it_says_what_transformers_says_alone_and_together(
    client: openai.OpenAI, source: tuple[Path, Any], tokenizer: Any
) -> None:
    wanted = []
    for prompt in PROMPTS:
        ids = greedy(source[1], tokenizer.encode(prompt).ids, 16)
        wanted.append((tokenizer.decode(ids, skip_special_tokens=True), len(ids)))
    ask: Any = {"model": "m", "max_tokens": 16, "temperature": 0}
    for prompt, (text, count) in zip(PROMPTS, wanted, strict=True):
        answer = client.completions.create(prompt=prompt, **ask)
        assert answer.choices[0].text == text and answer.usage
        assert answer.usage.completion_tokens in {count, count - 1}, "its end may count"
        assert answer.usage.prompt_tokens == len(tokenizer.encode(prompt).ids)
    together = client.completions.create(prompt=PROMPTS * 3, **ask)
    assert [c.text for c in together.choices] == [text for text, _ in wanted] * 3


def test_rows_that_come_and_go_do_not_touch_each_other(
    gateway: Local, source: tuple[Path, Any], tokenizer: Any
) -> None:
    """While others leave in the middle, each answer stays its own."""
    wanted = tokenizer.decode(
        greedy(source[1], tokenizer.encode(PROMPTS[2]).ids, 30), skip_special_tokens=True
    )
    texts = list[str]()

    def complete() -> None:
        status, answer = gateway.post(
            "/v1/completions", {"prompt": PROMPTS[2], "max_tokens": 30, "temperature": 0}
        )
        texts.append(answer["choices"][0]["text"] if status == 200 else str(answer))

    threads = [threading.Thread(target=complete) for _ in range(6)]
    for thread in threads:
        thread.start()
        long = {"prompt": "x " * 50, "max_tokens": 100, "stream": True, "ignore_eos": True}
        gone = gateway.open("/v1/completions", long)
        gone.recv(100)
        gone.close()
    for thread in threads:
        thread.join()
    assert texts == [wanted] * 6
    until(lambda: gateway.inside == 0)


def test_prompts_are_scored_as_in_transformers(
    client: openai.OpenAI, source: tuple[Path, Any], tokenizer: Any
) -> None:
    text = tiny_models.TEXT[:90]
    ids = tokenizer.encode(text).ids
    rows = logits(source[1], ids)
    rows = rows - rows.max(1, keepdims=True)
    rows -= np.log(np.exp(rows).sum(1, keepdims=True))
    answer = client.completions.create(
        model="m", prompt=text, max_tokens=2, temperature=0, echo=True, logprobs=2
    )
    choice = answer.choices[0]
    assert choice.logprobs and choice.logprobs.token_logprobs and choice.logprobs.tokens
    values = np.array(choice.logprobs.token_logprobs[1 : len(ids)], float)
    assert values == pytest.approx(rows[np.arange(len(ids) - 1), ids[1:]], abs=1e-3)
    assert choice.logprobs.token_logprobs[len(ids)] == pytest.approx(rows[-1].max(), abs=1e-3)
    assert "".join(choice.logprobs.tokens[: len(ids)]) == text
    assert choice.text.startswith(text)


def test_chats_stream_and_stop(client: openai.OpenAI) -> None:
    ask: Any = {
        "model": "m",
        "messages": MESSAGES,
        "max_tokens": 20,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 2,
    }
    whole = client.chat.completions.create(**ask)
    streamed, tokens = "", list[str]()
    last: Any = None
    for last in client.chat.completions.create(
        **ask, stream=True, stream_options={"include_usage": True}
    ):
        for choice in last.choices:
            streamed += choice.delta.content or ""
            tokens += (
                [t.token for t in choice.logprobs.content]
                if choice.logprobs and choice.logprobs.content
                else []
            )
    text = whole.choices[0].message.content or ""
    assert streamed == text and last.usage == whole.usage
    assert whole.choices[0].logprobs and whole.choices[0].logprobs.content
    assert tokens == [t.token for t in whole.choices[0].logprobs.content]
    assert all(
        len(t.top_logprobs) == 2 and t.top_logprobs[0].token == t.token
        for t in whole.choices[0].logprobs.content
    )
    middle = text[len(text) // 2 : len(text) // 2 + 3]
    cut = client.chat.completions.create(**ask, stop=[middle]).choices[0]
    assert cut.message.content == text[: text.index(middle)] and cut.finish_reason == "stop"


def test_chance_is_repeated_by_its_seed_and_bent_by_biases(
    client: openai.OpenAI, tokenizer: Any
) -> None:
    ask: Any = {"model": "m", "prompt": "hola", "max_tokens": 12, "temperature": 1.0, "top_p": 0.9}
    first, again = (client.completions.create(**ask, seed=3, n=2) for _ in range(2))
    assert [c.text for c in first.choices] == [c.text for c in again.choices]
    assert first.choices[0].text != first.choices[1].text
    token = tokenizer.encode("z").ids[-1]
    forced = client.completions.create(**ask, logit_bias={str(token): 100}).choices[0].text
    assert forced == "z" * 12
    ask |= {"temperature": 0, "max_tokens": 16}
    penalized = client.completions.create(
        **ask, frequency_penalty=2.0, presence_penalty=2.0, logprobs=0
    ).choices[0]
    assert penalized.logprobs and penalized.logprobs.tokens
    plain = client.completions.create(**ask, logprobs=0).choices[0]
    assert plain.logprobs and plain.logprobs.tokens
    assert len(set(penalized.logprobs.tokens)) >= len(set(plain.logprobs.tokens))


def test_tokens_and_status(gateway: Local, tokenizer: Any) -> None:
    status, answer = gateway.post("/tokenize", {"content": "hello"})
    assert (status, answer["tokens"]) == (
        200,
        tokenizer.encode("hello", add_special_tokens=False).ids,
    )
    assert gateway.post("/detokenize", {"tokens": answer["tokens"]}) == (200, {"content": "hello"})
    assert gateway.pool.status()[0]["program"] in {"onnxruntime", "mlx-lm", "openvino"}


@pytest.mark.parametrize(
    ("path", "change", "status", "says"),
    [
        ("/v1/completions", {"prompt": "x " * 300}, 400, "the context"),
        ("/v1/completions", {"prompt": [10**6]}, 400, "invalid tokens"),
        (
            "/v1/completions",
            {"prompt": [10**6], "echo": True, "logprobs": 1},
            400,
            "invalid tokens",
        ),
        (
            "/v1/completions",
            {"prompt": "x " * 300, "echo": True, "logprobs": 1},
            400,
            "the context",
        ),
        ("/v1/completions", {"prompt": "a", "response_format": {"type": "xml"}}, 400, "xml"),
        (
            "/v1/chat/completions",
            {"messages": MESSAGES, "logit_bias": {"x": 1}},
            400,
            "not understood",
        ),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": [CAT]}]},
            400,
            "alone",
        ),
        ("/v1/embeddings", {"input": "a"}, 501, "cannot do this"),
        ("/detokenize", {"tokens": [-1]}, 400, "invalid tokens"),
    ],
)
def test_what_it_cannot_do_is_said(
    gateway: Local, path: str, change: dict[str, Any], status: int, says: str
) -> None:
    got, answer = gateway.post(path, {"max_tokens": 2} | change)
    assert (got, says in answer["error"]["message"]) == (status, True), answer


def test_it_comes_back_after_kill_9(gateway: Local) -> None:
    import os
    import signal

    first = gateway.main.pid
    os.kill(first, signal.SIGKILL)
    end = time.monotonic() + 30
    while True:
        status, answer = gateway.post("/v1/completions", {"prompt": "hola", "max_tokens": 2})
        if status == 200:
            break
        assert status == 503 and time.monotonic() < end, answer
        time.sleep(0.2)
    assert gateway.main.pid != first


def test_starts_that_fail_alike_are_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(64))
    monkeypatch.setattr(process, "BACKOFF", (0.01,))
    config = EngineConfig(engine="gguf", path=str(broken), name="small")
    told: list[str] = []

    async def start() -> EngineProcess:
        engine = EngineProcess(config, lambda given: (given, FileStates(())))
        async with aiohttp.ClientSession() as session:
            engine.supervise(session)
            while engine.state != "failed":
                await asyncio.sleep(0.05)
        return engine

    with server.warnings_told(told.append):
        failed = asyncio.run(asyncio.wait_for(start(), 300))
    assert failed.restarts == process.MAX_FAILED_STARTS - 1
    assert len(told) == 1 and told[0].startswith("The engine of small does not start: "), told


def test_people_are_told_of_an_engine_that_does_not_start() -> None:
    told: list[str] = []
    with server.warnings_told(told.append):
        server.LOG.warning("The engine of %s does not start: %s", "small", "it has no memory")
        server.LOG.info("a detail")
    server.LOG.warning("after the end")
    assert told == ["The engine of small does not start: it has no memory"]

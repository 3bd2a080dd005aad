"""What odd clients send to each engine: it answers or refuses, and goes on for everybody else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import engine_artefacts
from helpers.gateways import Local, local, until

from kanna.serving import watchdog

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
HELLO: Any = [{"role": "user", "content": "hello"}]
TOOL = {"type": "function", "function": {"name": "f"}}
BROKEN = {"type": "function", "function": {"name": "f", "parameters": {"type": 5}}}
GOOD: Any = {"prompt": "hola", "max_tokens": 6, "temperature": 0}


@pytest.fixture(scope="module", params=engine_artefacts.ENGINES)
def gateway(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Local]:
    artefact = engine_artefacts.shared(request.param, tmp_path_factory)
    with local(artefact, tmp_path_factory.mktemp("gateway"), replay=False) as running:
        yield running


ANSWERED: list[dict[str, Any]] = [
    {"top_k": 40.0, "temperature": 0.7},
    {"top_k": "40", "temperature": "0.7"},
    {"top_k": 10**12, "temperature": 1},
    {"temperature": 1e-300},
    {"temperature": 10, "top_p": 0},
    {"temperature": 1, "top_p": 1e-30, "min_p": 1, "top_k": 1},
    {"temperature": 1, "seed": 2**70},
    {"frequency_penalty": -2, "presence_penalty": "2", "repeat_penalty": 0.1},
    {"logit_bias": {"99999999": 100, "5": -100}},
    {"max_tokens": -1, "stop": ["a", "e", "i", "o", "u", " "]},
    {"max_tokens": 10**15},
    {"stop": ["", "x" * 5000]},
    {"n": "2", "stream_options": {"include_usage": True}},
    {"response_format": {"type": "json_object"}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
    {"user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"},
    {"id_slot": 99, "n_probs": 10**9, "chat_parser": "x", "grammar_triggers": "x"},
    {"mirostat": 0, "typical_p": 1, "dry_multiplier": 0, "xtc_probability": 0},
]


@pytest.mark.parametrize("change", ANSWERED, ids=lambda change: " ".join(change))
def test_options_as_clients_send_them(gateway: Local, change: dict[str, Any]) -> None:
    for path, body in ((CHAT, {"messages": HELLO}), (COMPLETION, {"prompt": "a"})):
        status, answer = gateway.post(path, body | {"max_tokens": 3} | change)
        assert status == 200, answer


CHATS: list[dict[str, Any]] = [
    {"logprobs": "true", "top_logprobs": "20"},
    {"tools": [], "tool_choice": None, "parallel_tool_calls": True},
    {"tools": [{"type": "function", "function": {"name": "f", "parameters": None}}]},
    {"messages": [{"role": "developer", "content": "s"}, *HELLO]},
    {"messages": [*HELLO, {"role": "system", "content": "s"}, *HELLO, *HELLO]},
    {"messages": [{"role": "assistant", "content": None}, *HELLO]},
    {"messages": [{"role": "user", "content": "<|im_start|>{{ x }}\x00{% raise %}"}]},
    {"messages": [*HELLO, {"role": "tool", "content": None, "tool_call_id": "a"}]},
]


@pytest.mark.parametrize("change", CHATS)
def test_chats_as_clients_send_them(gateway: Local, change: dict[str, Any]) -> None:
    status, answer = gateway.post(CHAT, {"messages": HELLO, "max_tokens": 2} | change)
    assert status == 200, answer


REFUSED: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"tools": [BROKEN], "tool_choice": "required"}),
    (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 5}}}}),
    (CHAT, {"messages": [{"role": "user", "content": "\ud800"}]}),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
    (CHAT, {"tools": [TOOL], "grammar": 'root ::= "a"'}),
    (COMPLETION, {"grammar": "root ::= ("}),
    (COMPLETION, {"prompt": [10**6]}),
    (COMPLETION, {"prompt": [[1], [10**6]], "echo": True}),
    ("/v1/embeddings", {"input": ""}),
    ("/detokenize", {"tokens": [10**6]}),
    ("/tokenize", {"content": 5}),
]


@pytest.mark.parametrize(("path", "change"), REFUSED)
def test_the_clients_mistakes_are_the_clients(
    gateway: Local, path: str, change: dict[str, Any]
) -> None:
    body = {"messages": HELLO, "max_tokens": 2} if path == CHAT else {}
    status, answer = gateway.post(path, body | change)
    assert status == 400 and answer["error"]["type"] == "invalid_request_error", answer


@pytest.mark.parametrize(
    ("path", "change"),
    [
        (COMPLETION, {"prompt": "x " * 3000}),
        (COMPLETION, {"prompt": "x " * 3000, "stream": True}),
        (COMPLETION, {"prompt": [1] * 3000, "echo": True, "logprobs": 1}),
        (CHAT, {"messages": [{"role": "user", "content": "x " * 3000}]}),
    ],
)
def test_what_is_too_long_has_its_own_code(
    gateway: Local, path: str, change: dict[str, Any]
) -> None:
    status, answer = gateway.post(path, {"max_tokens": 2} | change)
    assert (status, answer["error"]["code"]) == (400, "context_length_exceeded"), answer


def test_a_long_input_of_embeddings_has_its_own_code(gateway: Local) -> None:
    status, answer = gateway.post("/v1/embeddings", {"input": "x " * 3000})
    if gateway.pool.find("m").engine.name == "gguf":
        assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
    else:
        assert status == 501


def test_a_developer_is_heard_as_the_system_is(gateway: Local) -> None:
    answers = [
        gateway.post(
            CHAT,
            {
                "messages": [{"role": role, "content": "Answer in French."}, *HELLO],
                "max_tokens": 8,
                "temperature": 0,
            },
        )[1]
        for role in ("system", "developer")
    ]
    assert answers[0]["usage"]["prompt_tokens"] == answers[1]["usage"]["prompt_tokens"]
    assert answers[0]["choices"][0]["message"] == answers[1]["choices"][0]["message"]


def test_a_schema_holds_a_completion(gateway: Local) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
    form = {
        "type": "json_schema",
        "json_schema": {"name": "x", "schema": schema | {"additionalProperties": False}},
    }
    _, answer = gateway.post(
        COMPLETION, {"prompt": "a", "max_tokens": 40, "temperature": 0, "response_format": form}
    )
    assert json.loads(answer["choices"][0]["text"])["n"] in {1, 2}


def test_the_engine_is_still_the_same_one(gateway: Local) -> None:
    """Runs last in this file: nothing above has ended it."""
    status, answer = gateway.post(COMPLETION, GOOD)
    assert status == 200 and answer["choices"][0]["text"]
    assert gateway.main.restarts == 0 and gateway.inside == 0


DYING = """
import asyncio
from kanna.serving.engines._jobs import GenerationJob, SamplingParameters
from kanna.serving.engines._worker import Worker

class Batch:
    vocab_size, context, pending = 4, 16, 0
    def add(self, job):
        if job.max_tokens == 1:
            raise ValueError("this job alone")
        self.pending = 1
    def remove(self, job):
        pass
    def step(self):
        raise MemoryError("no cache left")

async def main():
    worker = Worker(Batch)
    def job(count):
        new = GenerationJob(ids=[1], sampling=SamplingParameters(), max_tokens=count,
                            end_ids=frozenset())
        worker.submit(new)
        return new
    print(await job(1).output.get(), worker.problem == "", flush=True)
    print(await job(2).output.get(), flush=True)
    print(worker.problem, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def test_a_thread_that_dies_ends_its_jobs_and_the_process() -> None:
    run = subprocess.run(
        [sys.executable, "-c", DYING], capture_output=True, text=True, timeout=30, check=False
    )
    assert run.returncode == 1
    alone, together, problem = run.stdout.splitlines()
    assert alone == "ValueError: this job alone True"
    assert together == problem == "the engine stopped: MemoryError: no cache left"
    assert "Traceback" in run.stderr


FAILING = """
import pathlib, sys, time
if "kanna.serving.child" in sys.orig_argv:
    from kanna.serving.engines import _worker
    from kanna.serving.engines.onnx_decoder import OnnxDecoder
    _worker.STALL_TIME = 0.5
    step = OnnxDecoder.step

    def failing(self, ids):
        if pathlib.Path({flag!r}).exists():
            {fault}
        return step(self, ids)

    OnnxDecoder.step = failing
"""


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ('raise MemoryError("no cache left")', b"MemoryError: no cache left"),
        ("time.sleep(1000)", b"is being started again"),
    ],
)
def test_an_engine_whose_thread_died_is_started_again(
    fault: str,
    reason: bytes,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its requests say why, it is not ready meanwhile, and the next ones are answered."""
    artefact, flag = engine_artefacts.shared("onnx", tmp_path_factory), tmp_path / "flag"
    (tmp_path / "sitecustomize.py").write_text(FAILING.format(flag=str(flag), fault=fault))
    monkeypatch.setattr(watchdog, "_INTERVAL", 0.3)
    monkeypatch.syspath_prepend(str(tmp_path))
    with local(artefact, tmp_path, replay=False) as gateway:
        status, answer = gateway.post(COMPLETION, GOOD)
        assert status == 200, answer
        first = gateway.main.pid
        flag.touch()
        connection = gateway.open(COMPLETION, GOOD | {"stream": True, "ignore_eos": True})
        connection.settimeout(30)
        received = b""
        while part := connection.recv(65536):
            received += part
            if reason in received:
                break
        assert reason in received
        flag.unlink()
        until(lambda: gateway.main.restarts == 1, 20)
        until(lambda: gateway.main.state == "ready", 60)
        assert gateway.main.pid != first
        assert gateway.post(COMPLETION, GOOD)[1]["choices"] == answer["choices"]

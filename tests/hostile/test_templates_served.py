"""Chat templates that loop in the gateway: who asks for it is refused, others are answered."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import engine_artefacts
from helpers.gateway_process import Running, start, stop
from helpers.gateways import until

from kanna import encodings
from kanna.formats import gguf
from kanna.model import string
from kanna.plan.types import TensorPlan
from kanna.serving import engines
from kanna.serving.engines.chat_check import PLAIN

LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
SOMETIMES = "{% if messages[0].content == 'loop' %}" + LOOP + "{% endif %}"


def _with_template(artefact: Path, out: Path, template: str) -> Path:
    """A copy of an artefact with another chat template."""
    if artefact.is_file():
        file = gguf.read(artefact)
        plans = [
            TensorPlan(name=n, tensor=t, encoding=encodings.get(t.dtype), method="nearest")
            for n, t in file.tensors.items()
        ]
        metadata = {**file.metadata, "tokenizer.chat_template": string(template)}
        gguf.write(out.with_suffix(".gguf"), metadata=metadata, tensors=plans)
        return out.with_suffix(".gguf")
    shutil.copytree(artefact, out)
    (out / "chat_template.jinja").write_text(template)
    return out


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("loops")
    shared = {e: engine_artefacts.shared(e, tmp_path_factory) for e in engine_artefacts.ENGINES}
    template = SOMETIMES + engine_artefacts.TEMPLATE
    always = _with_template(shared["gguf"], folder / "always", LOOP)
    others = [f"{e}={_with_template(path, folder / e, template)}" for e, path in shared.items()]
    running = start(always, tmp_path_factory.mktemp("state"), *others)
    until(lambda: running.get("/ready")[0] == 200, 60)
    yield running
    stop(running)


def _chat(server: Running, model: str, content: str) -> tuple[int, Any]:
    messages = [{"role": "user", "content": content}]
    body = {"model": model, "messages": messages, "max_tokens": 2}
    status, text = server.post("/v1/chat/completions", json.dumps(body).encode())
    return status, json.loads(text)


@pytest.mark.parametrize("engine", engine_artefacts.ENGINES)
def test_a_chat_that_does_not_end_is_refused_and_others_are_answered(
    server: Running, engine: str
) -> None:
    assert _chat(server, engine, "hi")[0] == 200
    answers: list[tuple[int, Any]] = []
    looping = threading.Thread(target=lambda: answers.append(_chat(server, engine, "loop")))
    looping.start()
    started = time.monotonic()
    while looping.is_alive():
        assert _chat(server, engine, "hi")[0] == 200
    looping.join()
    assert time.monotonic() - started < 20
    [(status, answer)] = answers
    assert status == 400, answer
    assert "the chat template" in answer["error"]["message"]


def test_a_file_whose_template_never_ends_still_completes_text(server: Running) -> None:
    status, answer = _chat(server, "small", "hi")
    assert status == 400
    assert answer["error"]["code"] == "chat_template_limit"
    body = {"model": "small", "prompt": "hi", "max_tokens": 2}
    assert server.post("/v1/completions", json.dumps(body).encode())[0] == 200


def test_both_programs_of_llama_cpp_take_another_template(tmp_path: Path) -> None:
    from kanna.serving.engines.base import EngineConfig
    from kanna.serving.engines.gguf import native_options

    config = EngineConfig(engine="gguf", path="m.gguf", name="m", chat_template=PLAIN)
    options = native_options(config, 1)
    assert options[options.index("--chat-template") + 1] == PLAIN
    assert engines.get("gguf").chat_check

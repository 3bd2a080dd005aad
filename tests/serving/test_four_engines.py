"""Four engines behind one gateway, as `kanna serve` starts them.

And a model with a draft beside it.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import engine_artefacts
from helpers.gateway_process import Running, kanna, start, stop
from helpers.gateways import until

import kanna as library
from kanna.errors import SourceError, UsageError
from kanna.serving.metrics import Metrics
from kanna.serving.pool import ModelPool
from kanna.serving.settings import GatewaySettings, ModelSpec

NAMES = ("small", "onnx", "mlx", "openvino")
GAUGES = (
    "kanna_requests_running",
    "kanna_queue_depth",
    "kanna_batch_size",
    "kanna_kv_used_ratio",
    "kanna_memory_bytes",
)
HISTOGRAMS = ("kanna_ttft_seconds", "kanna_inter_token_seconds", "kanna_request_seconds")


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("source")
    engine_artefacts.source(folder)
    return {
        e: engine_artefacts.artefact(e, folder, tmp_path_factory.mktemp(e) / "model")
        for e in engine_artefacts.ENGINES
    } | {"source": folder}


@pytest.fixture(scope="module")
def server(
    artefacts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    more = [f"{name}={artefacts[name]}" for name in NAMES[1:]]
    running = start(
        artefacts["gguf"], tmp_path_factory.mktemp("state"), *more, "--alias", "tiny=mlx"
    )
    until(lambda: running.get("/ready")[0] == 200, 60)
    yield running
    stop(running)


def metrics(server: Running) -> dict[str, float]:
    lines = server.get("/metrics")[1].splitlines()
    return {
        name: float(value)
        for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")
    }


def test_every_metric_is_there_for_every_engine_from_the_start(server: Running) -> None:
    series = metrics(server)
    for name in NAMES:
        for metric in (*GAUGES, *(f"{h}_count" for h in HISTOGRAMS)):
            assert f'{metric}{{model="{name}"}}' in series
        assert f'kanna_engine_restarts_total{{model="{name}",role="generate"}}' in series


@pytest.mark.parametrize("name", NAMES)
def test_every_metric_moves_for_every_engine(server: Running, name: str) -> None:
    # The first request loads the engine, whose speed is then measured by a request beside it.
    server.client().completions.create(model=name, prompt="a", max_tokens=1)
    while metrics(server)[f'kanna_batch_size{{model="{name}"}}']:
        time.sleep(0.05)
    before = metrics(server)
    ask: Any = {
        "model": name,
        "prompt": "hola " * 20,
        "max_tokens": 120,
        "temperature": 0,
        "stream": True,
        "extra_body": {"ignore_eos": True},
    }
    texts, seen, ended = list[str](), list[dict[str, float]](), threading.Event()

    def read() -> None:
        for chunk in server.client().completions.create(**ask):
            texts.extend(c.text for c in chunk.choices)
        ended.set()

    thread = threading.Thread(target=read)
    thread.start()
    while not ended.is_set():
        seen.append(metrics(server))
        time.sleep(0.01)
    thread.join()
    assert len(texts) > 20
    most = {m: max(s[f'{m}{{model="{name}"}}'] for s in seen) for m in GAUGES}
    assert most["kanna_requests_running"] == most["kanna_batch_size"] == 1
    assert 20 / 512 <= most["kanna_kv_used_ratio"] <= 1
    assert most["kanna_memory_bytes"] > 20e6
    after = metrics(server)
    grown = {
        h: after[f'{h}_count{{model="{name}"}}'] - before[f'{h}_count{{model="{name}"}}']
        for h in HISTOGRAMS
    }
    assert (
        grown["kanna_ttft_seconds"] == grown["kanna_request_seconds"] == 1
        and grown["kanna_inter_token_seconds"] > 9
    )
    count = f'kanna_tokens_total{{key="anyone",kind="completion",model="{name}"}}'
    assert after[count] - before.get(count, 0) == 120
    until(lambda: metrics(server)[f'kanna_batch_size{{model="{name}"}}'] == 0)


def test_ps_says_what_runs_each(server: Running) -> None:
    import subprocess
    import sys

    for name in NAMES:
        server.client().completions.create(model=name, prompt="a", max_tokens=1)
    command = [sys.executable, "-m", "kanna", "ps", "--url", server.url]
    drawn = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for program in ("xllamacpp", "onnxruntime", "mlx-lm", "openvino"):
        assert program in drawn
    assert server.client().completions.create(model="tiny", prompt="a", max_tokens=1).model == "mlx"


@pytest.mark.parametrize("name", NAMES)
def test_a_stream_begins_with_its_first_token(server: Running, name: str) -> None:
    """Not when it is taken in: the time to the first token is counted by what comes first."""
    ask: Any = {
        "model": name,
        "messages": [{"role": "user", "content": "a"}],
        "max_tokens": 200,
        "stream": True,
        "extra_body": {"ignore_eos": True},
    }
    count = f'kanna_request_seconds_count{{model="{name}"}}'
    before = metrics(server)[count]
    under_way = [
        server.client().chat.completions.create(**ask) for _ in range(2)
    ]  # as many as there are slots
    readers = [threading.Thread(target=lambda s=s: [None for _ in s]) for s in under_way]
    for reader in readers:
        reader.start()
    next(iter(server.client().chat.completions.create(**ask)))
    assert metrics(server)[count] > before, "one of those before it has ended"
    for reader in readers:
        reader.join()


def test_a_draft_guesses_ahead_and_changes_nothing(
    artefacts: dict[str, Path], tmp_path: Path
) -> None:
    draft = tmp_path / "draft.gguf"
    library.convert(artefacts["source"], draft, preset="Q8_0", threads=1)
    texts: dict[str, str] = {}
    for options in ((), ("--draft", str(draft))):
        running = start(artefacts["gguf"], tmp_path, *options)
        try:
            body = {
                "model": "small",
                "prompt": "Once upon a",
                "max_tokens": 40,
                "temperature": 0,
                "ignore_eos": True,
            }
            answer = json.loads(running.post("/v1/completions", json.dumps(body).encode())[1])
            texts[" ".join(options)] = answer["choices"][0]["text"]
            guessed = answer["timings"].get("draft_n_accepted", 0)
            assert (guessed > 0) == bool(options), answer["timings"]
        finally:
            stop(running)
    assert len(set(texts.values())) == 1, texts


@pytest.mark.parametrize("option", ["--draft", "--adapter"])
def test_what_goes_with_a_gguf_alone_is_refused_elsewhere(
    artefacts: dict[str, Path], tmp_path: Path, option: str
) -> None:
    run = kanna("serve", artefacts["onnx"], option, artefacts["gguf"], state=tmp_path)
    assert run.returncode == 2 and re.search(
        "runs in onnx, which takes no draft model|is no .onnx_adapter file", run.stderr
    )
    run = kanna("serve", artefacts["gguf"], option, tmp_path / "absent.gguf", state=tmp_path)
    assert run.returncode == 2 and "does not exist" in run.stderr
    run = kanna("serve", artefacts["gguf"], option, f"nobody={artefacts['gguf']}", state=tmp_path)
    assert run.returncode == 2 and "'nobody'" in run.stderr


def test_one_draft_is_enough(artefacts: dict[str, Path], tmp_path: Path) -> None:
    file = artefacts["gguf"]
    run = kanna("serve", file, "--draft", file, "--draft", file, state=tmp_path)
    assert run.returncode == 2 and "two draft models" in run.stderr
    spec = ModelSpec(name="m", path=artefacts["mlx"], draft=file)
    with pytest.raises(UsageError, match="takes no draft model"):
        ModelPool([spec], GatewaySettings(context=256), Metrics())
    spec = ModelSpec(name="m", path=artefacts["mlx"], adapters=[file])
    with pytest.raises(SourceError, match="is a file"):
        ModelPool([spec], GatewaySettings(context=256), Metrics())

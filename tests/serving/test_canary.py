"""A second artefact on a share of the traffic.

Kept while it agrees and keeps up, taken back when it does not.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from helpers import engine_artefacts
from helpers.gateways import Local, local, until

import kanna
from kanna.errors import UsageError
from kanna.serving.canary import MAX_FAILURES, MIN_COMPARISONS, CanarySpec, wilson_upper

BODY: Any = {"prompt": "a", "max_tokens": 4}


def status(gateway: Local) -> dict[str, Any]:
    return gateway.pool.status()[0]["canary"]


def ask_until(gateway: Local, done: Any) -> list[str]:
    """Texts of answers."""
    texts: list[str] = []
    for _ in range(2000):
        if done():
            return texts
        code, answer = gateway.post("/v1/completions", BODY)
        assert code == 200, answer
        texts.append(answer["choices"][0]["text"])
    raise AssertionError(f"it did not come: {status(gateway)}")


@pytest.mark.parametrize(
    ("name", "says"),
    [("other.gguf", "next tokens agree"), ("slow.gguf", "times as long"), ("broken.gguf", "load")],
)
def test_a_worse_one_is_taken_back(tiny_gguf: Path, tmp_path: Path, name: str, says: str) -> None:
    path = tmp_path / name
    path.symlink_to(tiny_gguf)
    with local(tiny_gguf, tmp_path, canary=f"{path}@0.5") as gateway:
        if name != "broken.gguf":
            until(lambda: status(gateway)["state"] == "trying", 30)
        texts = ask_until(gateway, lambda: status(gateway)["state"] == "taken back")
        canary = status(gateway)
        assert says in canary["reason"]
        if name == "other.gguf":
            assert abs(texts.count("yyyy") / len(texts) - 0.5) < 0.1, (
                "half of the requests went there"
            )
        if name != "broken.gguf":
            assert canary["compared"] >= MIN_COMPARISONS
        until(lambda: not gateway.pool.loader.extra)
        assert gateway.post("/v1/completions", BODY)[1]["choices"][0]["text"] == "xxxx"
        text = gateway.pool.metrics.exposition().decode()
        assert 'kanna_canary_taken_back_total{model="m"} 1.0' in text


def test_an_equal_one_stays(tiny_gguf: Path, tmp_path: Path) -> None:
    path = tmp_path / "same.gguf"
    path.symlink_to(tiny_gguf)
    with local(tiny_gguf, tmp_path, canary=f"m={path}@1") as gateway:
        until(lambda: status(gateway)["state"] == "trying", 30)
        main = gateway.engine()["begun"]
        ask_until(gateway, lambda: status(gateway)["compared"] >= MIN_COMPARISONS + 5)
        canary = status(gateway)
        assert canary["state"] == "trying" and canary["agreed"] == canary["compared"]
        begun = gateway.engine()["begun"] - main
        assert canary["compared"] <= begun <= canary["compared"] + 1, (
            "the model itself was asked to compare alone"
        )
        prompt = [b for b in gateway.engine()["bodies"] if b.get("max_tokens") == 1]
        assert prompt and all(b["prompt"] == "a" and b["temperature"] == 0 for b in prompt)


@pytest.mark.parametrize(
    "more",
    [
        {"n": 2},
        {"echo": True},
        {"logprobs": 1},
        {"prompt": ["a", "b"]},
        {"n": 2, "stream": True},
        {"echo": True, "stream": True},
    ],
)
def test_what_takes_several_requests_never_goes_there(other: Local, more: dict[str, Any]) -> None:
    before = status(other)["requests"]
    texts = text_of(other, "/v1/completions", BODY | more)
    assert "y" not in texts and texts.count("x") == 4 * max(
        more.get("n", 1), len(more.get("prompt", "a"))
    )
    assert status(other)["requests"] == before


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_one_request_goes_there_and_is_compared(
    other: Local, path: str, stream: bool
) -> None:
    asked = (
        {"prompt": "a"}
        if path == "/v1/completions"
        else {"messages": [{"role": "user", "content": "a"}]}
    )
    before = status(other)
    assert text_of(other, path, asked | {"max_tokens": 4, "stream": stream}) == "yyyy"
    assert status(other)["requests"] == before["requests"] + 1
    until(lambda: status(other)["compared"] == before["compared"] + 1)


@pytest.fixture(scope="module")
def other(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """Every request that may go to a canary does, and that says something else."""
    folder = tmp_path_factory.mktemp("other")
    (folder / "other.gguf").symlink_to(tiny_gguf)
    with local(tiny_gguf, folder, canary=f"{folder}/other.gguf@1") as gateway:
        until(lambda: status(gateway)["state"] == "trying", 30)
        yield gateway


def text_of(gateway: Local, path: str, body: dict[str, Any]) -> str:
    """Everything that was said, streamed or not."""
    client = openai.OpenAI(base_url=gateway.url + "/v1", api_key="none", max_retries=0)
    create: Any = (
        client.completions.create if path == "/v1/completions" else client.chat.completions.create
    )
    answer: Any = create(model="m", **body)
    choices = [c for part in answer for c in part.choices] if body.get("stream") else answer.choices
    return "".join(
        c.text
        if path == "/v1/completions"
        else (c.delta if body.get("stream") else c.message).content or ""
        for c in choices
    )


def test_a_stream_under_way_ends_on_the_canary_that_is_taken_back(
    tiny_gguf: Path, tmp_path: Path
) -> None:
    (tmp_path / "other.gguf").symlink_to(tiny_gguf)
    with local(tiny_gguf, tmp_path, canary=f"{tmp_path}/other.gguf@1") as gateway:
        until(lambda: status(gateway)["state"] == "trying", 30)
        texts = list[str]()
        long = BODY | {"stream": True, "extra_body": {"replay": {"tokens": 40, "gap": 0.1}}}
        reader = threading.Thread(
            target=lambda: texts.append(text_of(gateway, "/v1/completions", long))
        )
        reader.start()
        until(lambda: status(gateway)["requests"] == 1)
        canary = gateway.pool.find("m").canary
        assert canary
        canary.compared = MIN_COMPARISONS  # and none agreed: the next one decides
        ask_until(gateway, lambda: status(gateway)["state"] == "taken back")
        assert reader.is_alive() and gateway.pool.loader.extra, "it is not unloaded below a request"
        reader.join()
        assert texts == ["y" * 40]
        until(lambda: not gateway.pool.loader.extra)
        assert text_of(gateway, "/v1/completions", BODY) == "xxxx"


def test_an_engine_of_a_canary_that_dies_costs_no_later_request(
    tiny_gguf: Path, tmp_path: Path
) -> None:
    (tmp_path / "same.gguf").symlink_to(tiny_gguf)
    with local(tiny_gguf, tmp_path, canary=f"{tmp_path}/same.gguf@1") as gateway:
        until(lambda: status(gateway)["state"] == "trying", 30)
        [canary] = gateway.pool.loader.extra.values()
        for i in range(MAX_FAILURES):
            assert canary.main.pid
            os.kill(canary.main.pid, signal.SIGKILL)
            until(lambda i=i: canary.main.restarts == i + 1)
            assert gateway.post("/v1/completions", BODY)[0] == 200, "the model answers"
            until(
                lambda: canary.main.state == "ready" or status(gateway)["state"] == "taken back", 30
            )
        assert "its engine ended 3 times" in status(gateway)["reason"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    engine_artefacts.source(folder)
    return folder


@pytest.mark.parametrize(
    ("preset", "stays"), [("Q8_0", True), ("mlx:q8", True), ("Q2_K", False), ("mlx:q2", False)]
)
def test_real_artefacts_are_kept_or_taken_back(
    source: Path, tmp_path: Path, preset: str, stays: bool
) -> None:
    """The same weights with 8 and with 2 bits beside those in float32, in the real engines."""
    model = engine_artefacts.artefact("gguf", source, tmp_path / "model")
    canary = tmp_path / ("canary" + (".gguf" if ":" not in preset else ""))
    kanna.convert(source, canary, preset=preset, threads=1)
    with local(model, tmp_path, replay=False, canary=f"{canary}@1", slowdown=1000) as gateway:
        until(lambda: status(gateway)["state"] == "trying", 60)
        for i in range(10 * MIN_COMPARISONS):
            before = status(gateway)["compared"]
            body = {"prompt": f"{i} {i * 7} the", "max_tokens": 2, "temperature": 0}
            assert gateway.post("/v1/completions", body)[0] == 200
            until(
                lambda before=before: (
                    status(gateway)["compared"] > before or status(gateway)["state"] != "trying"
                )
            )
            if (
                status(gateway)["state"] != "trying"
                or status(gateway)["compared"] >= 2 * MIN_COMPARISONS
            ):
                break
        canary = status(gateway)
        assert (canary["state"] == "trying") == stays, canary
        if stays:
            assert canary["agreed"] >= 0.9 * canary["compared"]
        else:
            assert "next tokens agree" in canary["reason"]
            until(lambda: not gateway.pool.loader.extra)
            assert gateway.post("/v1/completions", BODY)[0] == 200


@pytest.mark.parametrize("text", ["absent.gguf", "{path}@0", "{path}@2", "{path}@much"])
def test_what_is_no_canary_is_refused(tiny_gguf: Path, text: str) -> None:
    with pytest.raises(UsageError):
        CanarySpec.parse(text.format(path=tiny_gguf), "m", 0.8, 1.5)


def test_the_interval_is_wilsons() -> None:
    assert wilson_upper(20, 20) == pytest.approx(1.0)
    assert wilson_upper(0, 20) == pytest.approx(0.1611, abs=1e-4)
    assert wilson_upper(81, 100) == pytest.approx(0.8749, abs=2e-4)

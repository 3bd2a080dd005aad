"""A second artefact on a share of the traffic: kept while it agrees and keeps up, taken back when it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gateways import Local, local, until

from kanna.errors import UsageError
from kanna.serve.canary import ENOUGH, CanarySpec, upper

BODY: Any = {"prompt": "a", "max_tokens": 4}


def status(gateway: Local) -> dict[str, Any]:
    return gateway.pool.status()[0]["canary"]


def ask_until(gateway: Local, done: Any) -> list[str]:
    """Texts of answers."""
    said: list[str] = []
    for _ in range(2000):
        if done():
            return said
        code, answer = gateway.post("/v1/completions", BODY)
        assert code == 200, answer
        said.append(answer["choices"][0]["text"])
    raise AssertionError(f"it did not come: {status(gateway)}")


@pytest.mark.parametrize(
    ("name", "says"), [("other.gguf", "next tokens agree"), ("slow.gguf", "times as long"), ("broken.gguf", "load")]
)
def test_a_worse_one_is_taken_back(tiny_gguf: Path, tmp_path: Path, name: str, says: str) -> None:
    path = tmp_path / name
    path.symlink_to(tiny_gguf)
    with local(tiny_gguf, tmp_path, canary=f"{path}@0.5") as gateway:
        if name != "broken.gguf":
            until(lambda: status(gateway)["state"] == "trying", 30)
        said = ask_until(gateway, lambda: status(gateway)["state"] == "taken back")
        found = status(gateway)
        assert says in found["reason"]
        if name == "other.gguf":
            assert abs(said.count("yyyy") / len(said) - 0.5) < 0.1, "half of the requests went there"
        if name != "broken.gguf":
            assert found["compared"] >= ENOUGH
        until(lambda: not gateway.pool.extra)
        assert gateway.post("/v1/completions", BODY)[1]["choices"][0]["text"] == "xxxx"
        text = gateway.pool.metrics.text().decode()
        assert 'kanna_canary_taken_back_total{model="m"} 1.0' in text


def test_an_equal_one_stays(tiny_gguf: Path, tmp_path: Path) -> None:
    path = tmp_path / "same.gguf"
    path.symlink_to(tiny_gguf)
    with local(tiny_gguf, tmp_path, canary=f"m={path}@1") as gateway:
        until(lambda: status(gateway)["state"] == "trying", 30)
        main = gateway.engine()["begun"]
        ask_until(gateway, lambda: status(gateway)["compared"] >= ENOUGH + 5)
        found = status(gateway)
        assert found["state"] == "trying" and found["agreed"] == found["compared"]
        begun = gateway.engine()["begun"] - main
        assert found["compared"] <= begun <= found["compared"] + 1, "the model itself was asked to compare alone"
        prompt = [b for b in gateway.engine()["bodies"] if b.get("max_tokens") == 1]
        assert prompt and all(b["prompt"] == "a" and b["temperature"] == 0 for b in prompt)


@pytest.mark.parametrize("text", ["absent.gguf", "{path}@0", "{path}@2", "{path}@much"])
def test_what_is_no_canary_is_refused(tiny_gguf: Path, text: str) -> None:
    with pytest.raises(UsageError):
        CanarySpec.parse(text.format(path=tiny_gguf), "m", 0.8, 1.5)


def test_the_interval_is_wilsons() -> None:
    assert upper(20, 20) == pytest.approx(1.0)
    assert upper(0, 20) == pytest.approx(0.1611, abs=1e-4)
    assert upper(81, 100) == pytest.approx(0.8749, abs=2e-4)

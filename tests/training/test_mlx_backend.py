"""`kanna adapt --backend mlx`: mlx-lm's trainer on the same tokens, and its own layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import needs, tiny_adapters

import kanna
from kanna import training
from kanna._util import extras
from kanna.adapters import open_adapter
from kanna.errors import UsageError
from kanna.training import mlx_training, rate_finder
from kanna.training.request import AdaptRequest
from kanna.training.settings import MLX, TORCH
from kanna.training.tokens import UNLEARNED, TokenizedExample

needs.package("trl")
needs.package("mlx_lm")


def fast(**more: Any) -> dict[str, Any]:
    settings = {"threads": 1, "rank": 4, "learning_rate": 5e-3, "steps": 6, "batch": 4}
    return {**settings, "samples": 0, "verify": False, **more}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mlx")
    tiny_adapters.base("llama", folder / "source")
    tiny_adapters.words_to_say(folder / "data.jsonl")
    return folder


SCALES = {"rslora": 4.0, "lora": 2.0, "dora": 2.0}


@pytest.mark.parametrize(
    "method", ["rslora", *(pytest.param(name, marks=pytest.mark.slow) for name in ("lora", "dora"))]
)
def test_it_learns_and_writes_the_layout_of_mlx_lm(home: Path, method: str) -> None:
    out = home / method
    done = kanna.adapt(
        home / "source", home / "data.jsonl", out, backend="mlx", method=method, **fast()
    )
    assert done.tuned_loss < 0.9 * done.base_loss and done.settings["backend"] == "mlx"
    assert [h["step"] for h in done.history if "loss" in h] == list(range(1, 7))
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["fine_tune_type"] == method.removeprefix("rs") and config["num_layers"] == 3
    assert config["lora_parameters"] == {"rank": 4, "scale": SCALES[method], "dropout": 0.0}
    adapter = open_adapter(out)
    assert adapter.layout == "mlx-lm" and len(adapter.low_rank) == 21
    assert {p.name for p in out.iterdir()} >= {"adapters.safetensors", "held-out.jsonl"}
    assert kanna.merge(home / "source", out, dry_run=True).notes == []
    assert "held-out loss" in (out / "report.html").read_text()
    if method == "rslora":
        torch = kanna.adapt(home / "source", home / "data.jsonl", home / "t", **fast(steps=1))
        assert done.base_loss == pytest.approx(torch.base_loss, rel=1e-4)  # the same tokens
        assert done.examples == torch.examples and done.tokens == torch.tokens


def test_the_rate_is_found_and_the_run_is_as_if_it_was_given(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_finder, "STEPS", 16)
    data, told = home / "data.jsonl", {"backend": "mlx", "steps": 4, "learning_rate": None}
    auto = kanna.adapt(home / "source", data, home / "auto", **fast(**told, auto=True))
    test = auto.rate_test
    assert 1e-5 < test["rate"] < test["best"] <= 1e-1 and 8 <= test["steps"] <= 16
    assert auto.settings["learning_rate"] == test["rate"]
    assert [point["rate"] for point in test["curve"]][:1] == [0.0] and len(test["curve"]) > 2
    given = fast(**told | {"learning_rate": test["rate"]})
    assert kanna.adapt(home / "source", data, home / "given", **given).rate_test == {}
    one, two = (home / name / "adapters.safetensors" for name in ("auto", "given"))
    assert one.read_bytes() == two.read_bytes()


def test_tokens_and_what_is_learned_of_them_reach_mlx_as_they_are() -> None:
    one = TokenizedExample(ids=[5, 6, 7, 8], labels=[UNLEARNED, 6, UNLEARNED, 8])
    two = TokenizedExample(ids=[9, 3], labels=[UNLEARNED, 3])
    ids, learned = (np.array(a) for a in mlx_training._arrays([one, two]))  # pyright: ignore[reportPrivateUsage]
    assert ids.shape == learned.shape == (2, 33)
    assert ids[0, :5].tolist() == [5, 6, 7, 8, 0] and ids[1, :3].tolist() == [9, 3, 0]
    assert np.flatnonzero(learned[0]).tolist() == [1, 3]
    assert np.flatnonzero(learned[1]).tolist() == [1]


def test_what_mlx_lm_has_not_is_refused_and_the_default_is_chosen(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong: list[dict[str, Any]] = [
        {"objective": "dpo"},
        {"base_bits": 4},
        {"for_plan": "Q4_K_M"},
        {"device": "cpu"},
        {"draft": "mtp"},
        {"packing": True},
    ]
    for options in wrong:
        with pytest.raises(UsageError, match="--backend mlx with --"):
            kanna.adapt(home / "source", home / "data.jsonl", home / "no", backend="mlx", **options)

    def chosen(backend: str | None, **more: Any) -> str:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(extras, "require", print)
            return asked(backend, **more).with_backend().settings.backend

    assert chosen(None) == TORCH and chosen("mlx") == MLX
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert chosen(None) == MLX
    assert chosen(None, auto=True) == MLX and chosen(None, base_bits=4) == TORCH


def asked(backend: str | None, **settings: Any) -> AdaptRequest:
    return AdaptRequest(
        settings=training.TrainingSettings(**settings),
        rate=None,
        teacher=None,
        max_length=64,
        samples=0,
        for_plan=None,
        verify=False,
        draft=None,
        retrain_draft=False,
        backend=backend,
        device=None,
        threads=1,
        revision=None,
        offline=True,
    )

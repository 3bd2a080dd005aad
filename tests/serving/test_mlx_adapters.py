"""Adapters beside an MLX base, switched for each request: what PEFT computes with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import needs, tiny_adapters
from helpers.gateways import Local, local
from helpers.tiny_adapters import of_peft

import kanna
from kanna.errors import FormatError, UsageError
from kanna.serving.engines._jobs import (
    AdapterScales,
    GenerationJob,
    SamplingParameters,
)
from kanna.serving.engines._mlx_batch import MlxBatch
from kanna.serving.engines.base import EngineConfig
from kanna.serving.engines.gguf import check_adapter as check_gguf_adapter
from kanna.serving.engines.mlx import check_adapter

needs.package("peft")
needs.package("mlx_lm")
IDS = list(range(5, 40))
PROMPT = "The quick brown fox jumps over"
ADAPTERS: dict[str, list[str]] = {
    "": [],
    "tone": ["default"],
    "style": ["style"],
    "both": ["default", "style"],
}
SCALES: dict[str, AdapterScales] = {
    "": (),
    "tone": ((0, 1.0),),
    "style": ((1, 1.0),),
    "both": ((0, 1.0), (1, 1.0)),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mlx-adapters")


@pytest.fixture(scope="module")
def peft(home: Path) -> Any:
    """PEFT's model with both adapters, `tone` as mlx-lm has it and `style` as PEFT saved it."""
    source, model = home / "source", tiny_adapters.two(home, "tone-peft")
    kanna.convert(source, home / "served", preset="mlx:f32", threads=1)
    kanna.convert(source, home / "tone", adapter=home / "tone-peft", format="mlx", threads=1)
    return model


def folders(home: Path) -> list[Path]:
    return [home / "tone", home / "style"]


def greedy(model: Any, names: list[str], ids: list[int], count: int) -> list[int]:
    """The likeliest tokens after some, by PEFT."""
    ids = list(ids)
    for _ in range(count):
        ids.append(int(of_peft(model, names, ids)[-1].argmax()))
    return ids[-count:]


def batch(home: Path, adapters: list[Path], slots: int = 3) -> MlxBatch:
    paths = [str(path) for path in adapters]
    config = EngineConfig(
        engine="mlx", path=str(home / "served"), name="m", context=128, slots=slots, adapters=paths
    )
    return MlxBatch(home / "served", config)


def test_jobs_of_other_adapters_run_at_once_and_wait_for_slots(home: Path, peft: Any) -> None:
    """Five jobs in three slots, of four combinations of adapters, stepped together."""
    running, wanted = batch(home, folders(home)), dict[int, list[int]]()
    names = ["", "tone", "style", "both", "tone"]
    jobs: list[GenerationJob] = []
    for at, name in enumerate(names):
        ids = IDS[: 9 + at]
        job = GenerationJob(
            ids=ids,
            sampling=SamplingParameters(temperature=0.0),
            max_tokens=6,
            end_ids=frozenset(),
            adapters=SCALES[name],
        )
        jobs.append(job)
        wanted[at] = greedy(peft, ADAPTERS[name], ids, 6)
        running.add(job)
    assert running.pending == 5 and len({tuple(w) for w in wanted.values()}) == 5
    made: dict[int, list[int]] = {at: [] for at in range(5)}
    most = 0
    while running.pending:
        stepped = running.step()
        most = max(most, len(stepped))
        for job, token in stepped:
            assert not isinstance(token, Exception), token
            made[jobs.index(job)].append(token.id)
    assert made == wanted and most == 3


def test_prompts_are_scored_with_the_adapters_and_scales_that_are_asked_for(
    home: Path, peft: Any
) -> None:
    scoring = batch(home, folders(home))
    for name, adapters in ADAPTERS.items():
        [logits] = scoring.score(IDS, SCALES[name])
        np.testing.assert_allclose(logits, of_peft(peft, adapters, IDS), atol=5e-4, err_msg=name)
    base = of_peft(peft, [], IDS[:1])
    [weak] = scoring.score(IDS[:1], ((0, 1e-3),))
    assert 0 < np.abs(weak - base).max() < np.abs(of_peft(peft, ["default"], IDS[:1]) - base).max()


def test_a_quantized_base_takes_them_too(home: Path, peft: Any) -> None:
    kanna.convert(home / "source", home / "packed", preset="mlx:q8", threads=1)
    config = EngineConfig(
        engine="mlx", path=str(home / "packed"), name="m", adapters=[str(home / "tone")]
    )
    packed = MlxBatch(home / "packed", config)
    [tuned] = packed.score(IDS, ((0, 1.0),))
    exact, base = (of_peft(peft, names, IDS) for names in (["default"], []))
    assert np.abs(tuned - exact).mean() < 0.2 * np.abs(base - exact).mean()


def test_what_cannot_be_switched_is_refused(home: Path, peft: Any, tmp_path: Path) -> None:
    tiny_adapters.make(home / "source", tmp_path / "dora", use_dora=True, target_modules=["q_proj"])
    with pytest.raises(UsageError, match="by more than a product"):
        check_adapter(home / "served", tmp_path / "dora")
    with pytest.raises(UsageError, match="is a folder"):
        check_gguf_adapter(Path("m.gguf"), home / "tone")
    other = tiny_adapters.base("llama", tmp_path / "other")
    tiny_adapters.make(other, tmp_path / "wrong", target_modules=["q_proj"])
    check_adapter(home / "served", tmp_path / "wrong")  # shapes are looked at with the model
    with pytest.raises(FormatError, match=r"q_proj, \[\d+, \d+\]: the model"):
        batch(home, [tmp_path / "wrong"])


@pytest.fixture(scope="module")
def gateway(home: Path, peft: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    folder = tmp_path_factory.mktemp("gateway")
    with local(home / "served", folder, replay=False, adapters=folders(home)) as running:
        yield running


@pytest.mark.slow
def test_each_request_has_the_adapters_that_it_names(gateway: Local, home: Path, peft: Any) -> None:
    import tokenizers

    tokenizer: Any = tokenizers.Tokenizer.from_file(str(home / "source" / "tokenizer.json"))
    ids = list(tokenizer.encode(PROMPT).ids)
    texts = {n: tokenizer.decode(greedy(peft, names, ids, 12)) for n, names in ADAPTERS.items()}
    assert len(set(texts.values())) == 4
    asked: dict[str, Any] = {
        "": [],
        "tone": [{"id": 0, "scale": 1}],
        "style": [{"name": "style"}],
        "both": None,
    }
    for which, lora in asked.items():
        body = {"prompt": PROMPT, "max_tokens": 12, "temperature": 0, "ignore_eos": True}
        body |= {} if lora is None else {"lora": lora}
        status, answer = gateway.post("/v1/completions", body)
        assert (status, answer["choices"][0]["text"]) == (200, texts[which]), which
    status, answer = gateway.post("/v1/completions", {"prompt": PROMPT, "lora": [{"id": 7}]})
    assert status == 400 and "invalid lora adapter 7" in answer["error"]["message"]

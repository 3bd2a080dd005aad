"""lm-evaluation-harness against the gateway.

Log-likelihoods and accuracy as llama.cpp gives them in process.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.gateways import Local, local

from kanna.formats import gguf
from kanna.runtimes.llamacpp import RUNTIME
from kanna.tokenizer import to_hf

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed"
)

QUESTIONS = [
    ("The color of grass is", ["green", "purple", "loud"]),
    ("Two plus two is", ["nine", "four", "a horse"]),
    ("Cats like to chase", ["mice", "clouds of iron", "Tuesday"]),
    ("The capital of France is", ["Berlin", "Paris", "Oslo"]),
    ("Snow is", ["hot", "cold", "a kind of fish"]),
    ("We drink", ["water", "stones", "chairs"]),
    ("The sun rises in the", ["east", "west", "oven"]),
    ("A week has", ["seven days", "three moons", "ten legs"]),
    ("Birds can", ["fly", "read Latin", "melt"]),
    ("In winter it is often", ["cold", "edible", "triangular"]),
    ("The opposite of up is", ["down", "blue", "seven"]),
    ("A dog says", ["woof", "meow", "hello, sir"]),
]


@pytest.fixture(scope="module")
def gateway(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    with local(smollm2, tmp_path_factory.mktemp("gateway"), replay=False) as running:
        yield running


def test_log_likelihoods_and_accuracy_are_those_in_process(
    gateway: Local, smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    import lm_eval

    for name, data in to_hf(gguf.read(smollm2).metadata).items():
        (tmp_path / name).write_bytes(data)
    path = tmp_path / "questions.jsonl"
    path.write_text(
        "".join(json.dumps({"q": q, "choices": c, "gold": _gold(q)}) + "\n" for q, c in QUESTIONS)
    )
    task: Any = {
        "task": "questions",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": str(path)},
        "test_split": "train",
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}",
        "doc_to_target": "{{gold}}",
        "doc_to_choice": "{{choices}}",
        "metric_list": [{"metric": "acc"}],
    }
    model = {
        "model": "m",
        "base_url": gateway.url + "/v1/completions",
        "tokenizer": str(tmp_path),
        "tokenizer_backend": "huggingface",
        "tokenized_requests": True,
        "batch_size": 6,
        "max_length": 256,
        "num_concurrent": 1,
        "max_retries": 1,
    }
    evaluation: Any = lm_eval.simple_evaluate(
        model="local-completions",
        model_args=model,
        tasks=[task],
        log_samples=True,
        bootstrap_iters=0,
    )
    right = 0
    with RUNTIME.open(smollm2, context=256, threads=1) as engine:
        for sample, (question, choices) in zip(
            evaluation["samples"]["questions"], QUESTIONS, strict=True
        ):
            wanted = [likelihood(engine, question, " " + choice) for choice in choices]
            got = [(float(r[0][0]), str(r[0][1]) == "True") for r in sample["resps"]]
            assert [g for g, _ in got] == pytest.approx([w for w, _ in wanted], abs=5e-3)
            assert [g for _, g in got] == [w for _, w in wanted], (
                "what it would say of its own accord"
            )
            right += int(np.argmax([w for w, _ in wanted])) == _gold(question)
    assert evaluation["results"]["questions"]["acc,none"] == pytest.approx(right / len(QUESTIONS))
    assert right > len(QUESTIONS) / 2


def _gold(question: str) -> int:
    return {"Two plus two is": 1, "The capital of France is": 1, "Snow is": 1}.get(question, 0)


def likelihood(engine: Any, context: str, continuation: str) -> tuple[float, bool]:
    """Sum of log-probabilities of the continuation's tokens, and whether each is the likeliest."""
    start = len(engine.tokenize(context))
    ids = engine.tokenize(context + continuation)
    rows = engine.logits(ids).astype(np.float64)[start - 1 : -1]
    of = np.array(ids[start:])
    peak = rows.max(1)
    values = rows[np.arange(len(of)), of] - peak - np.log(np.exp(rows - peak[:, None]).sum(1))
    return float(values.sum()), bool((rows.argmax(1) == of).all())

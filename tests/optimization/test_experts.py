"""`kanna optimize` of a model with experts: one encoding for a stack, each expert's own moment."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import needs
from helpers.optimizing import invoke, quick

pytest.importorskip("torch")
pytest.importorskip("transformers")

from helpers import tiny_models  # noqa: E402 - needs torch

EXPERTS, LAYERS = 6, 3


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    needs.llama_cpp()
    home = tmp_path_factory.mktemp("experts")
    with quick():
        tiny_models.make("qwen3-moe", home / "tiny")
        (home / "text.txt").write_text(tiny_models.TEXT * 60, encoding="utf-8")
        words = tiny_models.TEXT.split()
        order = np.random.default_rng(0).permutation(len(words) * 30) % len(words)
        (home / "other.txt").write_text(" ".join(words[i] for i in order), encoding="utf-8")
        yield home


def test_stacks_are_measured_probed_and_allocated(home: Path) -> None:
    from kanna.formats import gguf

    run = invoke(home, "--bpw", "5", "--effort", "balanced")
    assert run.exit_code == 0, run.stderr
    made = json.loads(run.stdout)
    costs = json.loads((home / "out" / "measure.json").read_text())["costs"]
    stacks = [f"blk.{i}.ffn_{k}_exps.weight" for i in range(LAYERS) for k in ("gate", "up", "down")]
    for name in stacks:
        # Eight bits cost less than four, four less than two.
        sizes = [min(v for e, v in costs[name].items() if e.startswith(p)) for p in ("q8", "q4_0")]
        assert 0 <= sizes[0] < sizes[1], name
    assert "blk.0.ffn_gate_inp.weight" not in costs
    probes = json.loads((home / "out" / "probe.json").read_text())["kinds"]
    assert {"ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"} <= set(probes)
    tensors = gguf.read(Path(made["artefact"])).tensors
    for name in stacks:
        assert tensors[name].shape[0] == EXPERTS and tensors[name].dtype not in ("f32", "f16")
    assert {tensors[f"blk.{i}.ffn_gate_inp.weight"].dtype for i in range(LAYERS)} == {"f32"}
    assert made["gate"] == "proved" and made["kl_mean"] < made["rival_kl"]
    report = json.loads((home / "out" / "report.json").read_text())
    coverage = report["optimize"]["coverage"]
    assert [len(layer["tokens"]) for layer in coverage] == [EXPERTS] * LAYERS
    assert "Tokens of experts" in (home / "out" / "report.html").read_text()

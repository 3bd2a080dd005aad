"""Optimize for onnxruntime: a real tiny model from calibration to the proof beside a plain preset."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kanna.cli.main import cli
from kanna.plan import load

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("onnxruntime_genai")

import tiny_models  # noqa: E402 - needs torch

measure = import_module("kanna.optimize.measure")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder with a tiny model and a text; short windows and few rows."""
    from kanna.calibrate import shrink, windows

    home = tmp_path_factory.mktemp("optimize")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny_models.SMALL, "intermediate_size", 640)
        patch.setitem(tiny_models.SMALL, "num_hidden_layers", 2)
        patch.setattr(windows, "WINDOW", 128)
        patch.setattr(shrink, "ROWS", 4)
        patch.setattr(measure, "ROWS", 16)
        patch.setattr(measure, "HEAD_ROWS", 32)
        tiny_models.make("llama", home / "tiny")
        (home / "text.txt").write_text(tiny_models.TEXT * 60, encoding="utf-8")
        yield home


def invoke(home: Path, *words: str) -> Any:
    usual = ["--calibration", str(home / "text.txt"), "--tokens", "1024", "--text", str(home / "text.txt")]
    usual += ["--windows", "2", "--threads", "1", "--json", "--quiet", "--format", "onnx"]
    command = ["optimize", str(home / "tiny"), "-o", str(home / "out"), *usual, *words]
    return CliRunner().invoke(cli, command, env={"KANNA_CACHE": str(home / "cache")})


def test_the_folder_keeps_its_budget_and_beats_the_preset(home: Path) -> None:
    run = invoke(home, "--like", "int4", "--rule", "ffn_down=nbits8g32")
    assert run.exit_code == 0, run.stderr + run.output
    found = json.loads(run.stdout)
    artefact = Path(found["artefact"])
    size = sum(p.stat().st_size for p in artefact.iterdir())
    assert size == found["file_bytes"] <= found["budget"]
    assert found["rival"] == "onnx:int4" and found["kl_mean"] <= found["rival_kl"]
    rules = load(found["plan"]).rules
    assert {r.encoding for r in rules if "ffn_down" in r.pattern} == {"nbits8g32"}
    assert len({r.encoding for r in rules if "blk\\.0\\.attn_" in r.pattern and "output" not in r.pattern}) == 1
    probed = json.loads((home / "out" / "probe-onnx.json").read_text())
    assert set(probed["kinds"]) == {
        "token_embd", "output", "attn_qkv", "attn_output", "ffn_gate", "ffn_up", "ffn_down",
    }  # fmt: skip


def test_budgets_and_wishes_that_cannot_be_are_refused_early(home: Path) -> None:
    for words, said in (
        (["--memory", "1GB"], "--memory has no use for onnx"),
        (["--like", "Q4_K_M"], "--like Q4_K_M"),
        (["--like", "int4", "--rule", "ffn_down=q6_k"], "ffn_down=q6_k"),
        (["--like", "int4", "--exclude", "nbits4g48"], "no groups of 48"),
    ):
        run = invoke(home, *words)
        assert run.exit_code != 0 and said in run.stderr


def test_a_budget_below_the_smallest_folder_names_the_range(home: Path) -> None:
    run = invoke(home, "--size", "10kB")
    assert run.exit_code == 1 and "below the smallest" in run.stderr

"""Optimize for mlx-lm: a real tiny model from calibration to the proof beside a plain preset."""

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
pytest.importorskip("mlx_lm")

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
    usual += ["--windows", "2", "--threads", "1", "--json", "--quiet", "--format", "mlx"]
    command = ["optimize", str(home / "tiny"), "-o", str(home / "out"), *usual, *words]
    return CliRunner().invoke(cli, command, env={"KANNA_CACHE": str(home / "cache")})


def test_the_folder_keeps_its_budget_and_beats_the_preset(home: Path) -> None:
    run = invoke(home, "--like", "mlx:q4", "--rule", "ffn_down=affine6g64", "--exclude", "affine2g32")
    assert run.exit_code == 0, run.stderr + run.output
    found = json.loads(run.stdout)
    artefact = Path(found["artefact"])
    size = sum(p.stat().st_size for p in artefact.glob("*.safetensors"))
    assert size == found["file_bytes"] <= found["budget"]
    assert found["rival"] == "mlx:q4" and found["kl_mean"] <= found["rival_kl"]
    rules = load(found["plan"]).rules
    assert {r.encoding for r in rules if "ffn_down" in r.pattern} == {"affine6g64_f32"}
    import mlx_lm

    assert mlx_lm.load(str(artefact))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--like", "mlx:q7"), "q7"),
        (("--size", "1kB"), "smallest"),
        (("--memory", "1GB"), "--memory has no use for mlx"),
        (("--like", "mlx:q4", "--rule", "ffn_down=q4_k"), "ffn_down=q4_k"),
    ],
)
def test_what_cannot_be_is_refused(home: Path, words: tuple[str, ...], said: str) -> None:
    run = invoke(home, *words)
    assert run.exit_code in (1, 2) and said in run.stderr, run.stderr

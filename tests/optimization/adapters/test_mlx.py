"""Optimize for mlx-lm: a real tiny model from calibration to the proof beside a plain preset."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kanna.plan import load

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("mlx_lm")

from helpers import optimizing  # noqa: E402 - needs torch


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with optimizing.folder_home(tmp_path_factory.mktemp("optimize")) as home:
        yield home


def invoke(home: Path, *words: str) -> Any:
    return optimizing.invoke(home, "--format", "mlx", *words, text="text.txt")


def test_the_folder_keeps_its_budget_and_beats_the_preset(home: Path) -> None:
    words = ["--like", "mlx:q4", "--rule", "ffn_down=affine6g64", "--exclude", "affine2g32"]
    run = invoke(home, *words)
    assert run.exit_code == 0, run.stderr + run.output
    found = json.loads(run.stdout)
    artefact = Path(found["artefact"])
    size = sum(p.stat().st_size for p in artefact.glob("*.safetensors"))
    assert size == found["file_bytes"] <= found["budget"]
    assert found["rival"] == "mlx:q4" and found["kl_mean"] <= found["rival_kl"]
    rules = load(found["plan"]).rules
    # Of a source in float32, scales in half precision.
    assert {r.encoding for r in rules if "ffn_down" in r.pattern} == {"affine6g64_f16"}
    import mlx_lm

    assert mlx_lm.load(str(artefact))
    optimizing.reported(found, "mlx", home / "out")


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

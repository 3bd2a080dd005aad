"""Optimize for NPUs: 4 or 8 bits by matrix in graphs of fixed shapes, within a budget of bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kanna._util.disk import folder_size
from kanna.conversion import onnx_derived
from kanna.plan import load

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("onnxruntime_genai")

from helpers import optimizing  # noqa: E402 - needs torch


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with (
        optimizing.folder_home(tmp_path_factory.mktemp("static")) as home,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(onnx_derived, "TOKENS", 1024)
        yield home


def invoke(home: Path, *words: str, static: str = "16x128") -> Any:
    words = ("--format", "onnx", "--static", static, *words)
    return optimizing.invoke(home, *words, text="text.txt")


def test_bytes_are_shared_out_among_what_the_npu_multiplies(home: Path) -> None:
    refused = invoke(home, "--size", "10kB", "--provider", "qnn")
    assert refused.exit_code == 1, refused.stderr
    said = re.search(r"([\d,]+) to ([\d,]+) bytes", " ".join(refused.stderr.split()))
    assert said is not None, refused.stderr
    least, most = (int(figure.replace(",", "")) for figure in said.groups())
    budget = (least + most) // 2
    run = invoke(home, "--size", f"{budget}B", "--provider", "qnn")
    assert run.exit_code == 0, run.stderr + run.output
    made = json.loads(run.stdout)
    written = next(row for row in made["times"] if row["stage"] == "write")
    # Rates that are measured beside other work are off themselves.
    assert 0.2 < written["predicted_cpu_seconds"] / written["cpu_seconds"] < 5
    artefact = Path(made["artefact"])
    assert folder_size(artefact) == made["file_bytes"] <= budget
    assert {p.name for p in artefact.glob("*.onnx")} == {"prefill.onnx", "decode.onnx"}
    genai = json.loads((artefact / "genai_config.json").read_text())["model"]["decoder"]
    assert "qnn" in genai["session_options"]["provider_options"][0]
    plan = load(made["plan"])
    named = {rule.encoding for rule in plan.rules}
    assert named == {"int4_channel", "int8_channel"}
    placed = made["provider"]
    assert placed["outside"] == 0 and set(placed["graphs"]) == {"prefill.onnx", "decode.onnx"}
    assert set(placed["weights"]) == named
    rows = {
        row["name"]: row
        for row in json.loads((home / "out" / "report-onnx.json").read_text())["rows"]
    }
    assert {"optimized", "optimized-products"} <= rows.keys()
    for row in rows.values():
        assert row["file_bytes"] == folder_size(Path(row["path"])) <= budget
    assert made["kl_mean"] == min(row["kl_mean"] for row in rows.values())


@pytest.mark.parametrize(
    ("words", "static", "said"),
    [
        (["--like", "int4"], "16x128", "--like int4"),
        (["--size", "1MB", "--provider", "webgpu"], "16x128", "does not read activations"),
        (["--size", "1MB", "--provider", "dml"], "16x128",
         "--preset onnx:w8a8 --static 16x128 --provider dml"),
        (["--size", "1MB", "--provider", "vitisai", "--rule", "ffn_down=int4_channel"], "16x128",
         "does not multiply"),
        (["--size", "1MB", "--min-speed", "3"], "16x128", "fixed shapes"),
        (["--size", "1MB"], "16x100", "whole number"),
        (["--size", "1MB"], "64x1000000", "at most"),
    ],
)  # fmt: skip
def test_wishes_that_cannot_be_are_refused_early(
    home: Path, words: list[str], static: str, said: str
) -> None:
    run = invoke(home, *words, static=static)
    assert run.exit_code != 0 and said in " ".join(run.stderr.split()), run.stderr


def test_fixed_shapes_are_for_a_format_that_has_them(home: Path) -> None:
    run = optimizing.invoke(home, "--static", "16x128", "--size", "1MB")
    assert run.exit_code == 2 and "--static has no use for gguf" in run.stderr

"""What the command says of bad input on the way to ONNX.

A message with what to do, its exit code, nothing written.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers import tiny_models

from kanna._util import extras, processes
from kanna.cli.main import cli
from kanna.formats.onnx import build


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    with pytest.MonkeyPatch.context() as patch:
        for key, value in (
            ("intermediate_size", 640),
            ("hidden_size", 192),
            ("num_hidden_layers", 1),
        ):
            patch.setitem(tiny_models.SMALL, key, value)
        tiny_models.make("llama", folder)
    return folder


def refused(arguments: list[str], out: Path, code: int) -> dict[str, Any]:
    result = CliRunner().invoke(cli, ["--json", "convert", *arguments, "-o", str(out)])
    assert result.exit_code == code, result.output
    assert not list(out.parent.iterdir())
    return json.loads(result.stdout)["error"]


@pytest.mark.parametrize(
    ("options", "code", "found", "todo"),
    [
        pytest.param(["--encoding", "nbits4g48"], 1, "no groups of 48", "nbits4g32", id="group"),
        pytest.param(["--encoding", "nbits3g32"], 1, "no codes of 3 bits", "nbits4g32", id="width"),
        pytest.param(
            ["--encoding", "nbits4g128"], 1, "rows have 192 values", "groups of 64", id="shape"
        ),
        pytest.param(
            ["--encoding", "q4_k"],
            1,
            "no operator of onnxruntime multiplies by q4_k",
            "gguf",
            id="operator",
        ),
        pytest.param(
            ["--encoding", "affine4g64"],
            1,
            "no operator of onnxruntime",
            "gguf",
            id="encoding of MLX",
        ),
        pytest.param(["--preset", "onnx:int3"], 2, "no preset", None, id="preset"),
    ],
)
def test_bad_input_is_named(
    options: list[str], code: int, found: str, todo: str | None, source: Path, tmp_path: Path
) -> None:
    said = refused([str(source), "--format", "onnx", *options], tmp_path / "out", code)
    assert found in said["found"]
    assert said.get("expected")
    assert todo is None or todo in said["todo"]


@pytest.mark.parametrize("preset", ["int4", "fp32", "int8", "bf16"])
def test_a_missing_extra_names_its_command(
    preset: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build.require, "__defaults__", (("onnxruntime_genai_that_is_not_there",),))
    said = refused([str(source), "--preset", f"onnx:{preset}"], tmp_path / "out", 3)
    assert said["todo"] == extras.command("onnx")


def test_a_builder_that_fails_leaves_nothing(
    source: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = tmp_path_factory.mktemp("broken")
    (broken / "onnxruntime_genai.py").write_text("raise ImportError('a wheel for another machine')")
    real = processes.environment()
    path = f"{broken}{os.pathsep}{real.get('PYTHONPATH', '')}"
    monkeypatch.setattr(processes, "environment", lambda: real | {"PYTHONPATH": path})
    said = refused([str(source), "--preset", "onnx:fp32"], tmp_path / "out", 1)
    assert (
        "the model builder ended with code 1" in said["found"]
        and "another machine" in said["found"]
    )

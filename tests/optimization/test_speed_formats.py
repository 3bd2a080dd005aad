"""A floor of tokens per second is kept in every format whose costs can be measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import optimizing

from kanna import formats
from kanna.benchmark import costs
from kanna.plan import mlx, onnx, openvino

pytest.importorskip("torch")
pytest.importorskip("transformers")

FOLDERS = [name for name in costs.names() if not formats.get(name).suffix]
FAST, CLOSE = 400.0, 900.0
"""Microseconds per million weights of 4 bits, and of 8."""
NAMES = {
    "mlx": ("affine4g64_f16", "affine8g64_f16"),
    "onnx": ("nbits4g64", "nbits8g64s"),
    "openvino": ("nbits4g64", "nbits8g64"),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tiny model, and a table of costs for every format."""
    with (
        optimizing.folder_home(tmp_path_factory.mktemp("floors")) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(mlx, "_WIDTHS", ((4, 64), (8, 64)))
        patch.setattr(onnx, "CANDIDATES", NAMES["onnx"])
        patch.setattr(openvino, "CANDIDATES", NAMES["openvino"])
        for format, names in NAMES.items():
            table = {
                "kind": "encoding-speeds",
                "format": format,
                "machine": "a board",
                "token": 100,
                "generation": dict(zip(names, (FAST, CLOSE), strict=True)),
                "error": 0.1,
            }
            (folder / f"{format}.json").write_text(json.dumps(table), encoding="utf-8")
        yield folder


def optimized(home: Path, format: str, *words: str) -> dict[str, Any]:
    speeds = ["--speeds", str(home / f"{format}.json")]
    usual = ["--format", format, "--effort", "fast", "--bpw", "9.0"]
    result = optimizing.invoke(home, *usual, *speeds, *words, out=f"out-{format}")
    assert result.exit_code == 0, result.stderr
    about: dict[str, Any] = json.loads(result.stdout)
    return about


def test_every_format_has_a_case() -> None:
    assert set(FOLDERS) == set(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("format", FOLDERS)
def test_a_floor_is_kept(format: str, home: Path) -> None:
    """test_speed.py stands for these by default: all take the same path."""
    if format == "onnx":
        pytest.importorskip("onnxruntime_genai")
    fast, close = NAMES[format]
    slowest = optimized(home, format, "--min-speed", "1")
    assert slowest["encodings"].get(fast, 0) < slowest["encodings"][close]
    usual = slowest["speed"]["rows"][0]
    assert usual["measured"] > 0 and usual["predicted"] > 0
    floor = 1.3 * usual["predicted"]
    made = optimized(home, format, "--min-speed", f"{floor:.6g}")
    row = made["speed"]["rows"][0]
    assert row["predicted"] >= floor * (1 - 1e-5)
    assert made["encodings"][fast] > slowest["encodings"].get(fast, 0)
    assert made["file_bytes"] < slowest["file_bytes"]
    assert row["kl"] >= usual["kl"]
    over = ["--format", format, "--effort", "fast", "--bpw", "9.0", "--min-speed", "1000000"]
    speeds = ["--speeds", str(home / f"{format}.json")]
    refused = optimizing.invoke(home, *over, *speeds, out=f"out-{format}")
    assert refused.exit_code == 1 and "the fastest is predicted to generate" in refused.stderr

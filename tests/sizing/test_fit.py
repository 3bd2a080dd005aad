"""`kanna fit`: how long it takes, and what a narrow terminal shows of it."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

import kanna
from kanna import convert, families
from kanna.cli.main import cli
from kanna.errors import UnsupportedError, UsageError
from kanna.families._config import Config
from kanna.formats import mlx
from kanna.sources import packages

SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
    "query_pre_attn_scalar": 16,
    "sliding_window": 32,
    "tie_word_embeddings": True,
}


def folder_of(family: str, tokenizer: str, vocabulary: int, folder: Path) -> Path:
    """A Hugging Face folder with a real tokenizer and weights of zero."""
    from helpers.headers import tensors_of

    known = families.get(family)
    config = {"architectures": [known.architectures[0]], "vocab_size": vocabulary, **SIZES}
    folder.mkdir()
    for file in packages.tokenizer(tokenizer).iterdir():
        shutil.copy(file, folder)
    (folder / "config.json").write_text(json.dumps(config))
    headers = tensors_of(known, Config(config, known.defaults))
    headers.pop("lm_head.weight", None)
    save_file(
        {n: np.zeros(t.shape, np.float16) for n, t in headers.items()}, folder / "model.safetensors"
    )
    return folder


YARDSTICK = """
import json
for _ in range(40):
    json.loads(json.dumps([[str(i), str(i + 1)] for i in range(20000)]))
"""
"""Some 0.3 s of what takes `fit` its time, on a processor of 2024."""


def seconds(*arguments: str) -> float:
    """Processor time of Python from the shell to its end, the least of three runs.

    Not wall time: other work on the machine would count too. The command has one thread.
    """
    times: list[float] = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0, done.stderr
    return min(times)


def cost(source: Path) -> float:
    """Processor time of `kanna fit`, in yardsticks of this machine at this moment."""
    fit = seconds("-m", "kanna", "fit", str(source))
    return fit / seconds("-c", YARDSTICK)


def test_fit_of_a_gguf_is_quick(smollm2: Path) -> None:
    assert cost(smollm2) <= 3
    assert cost(packages.gemma3_270m_gguf()) <= 3


@pytest.mark.parametrize(
    ("family", "tokenizer", "vocabulary", "limit"),
    [("llama", "llama2", 32_000, 3), ("gemma3", "gemma3", 262_144, 6)],
)
def test_fit_of_a_folder_is_quick(
    family: str, tokenizer: str, vocabulary: int, limit: float, tmp_path: Path
) -> None:
    assert cost(folder_of(family, tokenizer, vocabulary, tmp_path / "model")) <= limit


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_preset_keeps_to_one_line(width: int, smollm2: Path) -> None:
    run = CliRunner().invoke(
        cli, ["fit", str(smollm2), "--memory", "1GB"], env={"COLUMNS": str(width)}
    )
    lines = [line for line in run.stdout.splitlines() if line.startswith((" ✓", " ✗", " ★"))]
    assert len(lines) > 30
    assert sum(line.count(" MB") for line in lines) == 2 * len(lines)
    first = run.stdout.index(lines[0])
    assert run.stdout[first : run.stdout.index(lines[-1])].count("\n") == len(lines) - 1, (
        "no line is wrapped"
    )
    assert max(map(len, run.stdout.splitlines())) <= width


def without_window(folder: Path) -> Path:
    config = json.loads((folder / "config.json").read_text())
    del config["sliding_window"]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("format", ["mlx", "onnx", "openvino"])
def test_presets_of_folders_are_sized_as_they_will_be_written(format: str, tmp_path: Path) -> None:
    model = without_window(folder_of("llama", "llama2", 32_000, tmp_path / "model"))
    run = CliRunner().invoke(
        cli, ["fit", str(model), "--format", format, "--memory", "1GB", "--json"]
    )
    assert run.exit_code == 0, run.output
    found = json.loads(run.stdout)
    rows = {r["preset"]: r for r in found["rows"]}
    assert all(name.startswith(f"{format}:") and r["fits"] for name, r in rows.items())
    assert all(
        r["memory_bytes"]
        == r["weight_bytes"] + r["kv_bytes"] + r["buffer_bytes"] + r["runtime_bytes"]
        for r in rows.values()
    )
    # float16 in MLX on a Mac, as the source, float32 on a CPU, as in graphs of ONNX; OpenVINO keeps
    # bytes, with a scale and a zero per head, but for graphs of float32 alone.
    numbers = 2 * 2 * 32 * 4096
    small = {
        "mlx": ("q4", 4 if mlx.ON_CPU else 2),
        "onnx": ("int4", 4),
        "openvino": ("int4", 1 + 8 / 16),
    }
    preset, value_bytes = small[format]
    assert rows[f"{format}:{preset}"]["kv_bytes"] == numbers * value_bytes
    if format == "openvino":
        assert rows["openvino:f32"]["kv_bytes"] == numbers * 4
    assert found["recommended"] in ("mlx:q8", "onnx:w8", "openvino:int8")
    if format == "mlx":
        assert "mlx:exact" not in rows, "the source has no quantized blocks"
        convert(model, tmp_path / "out", preset="mlx:q4", overwrite=True)
        assert (tmp_path / "out" / "model.safetensors").stat().st_size == rows["mlx:q4"][
            "file_bytes"
        ]


def test_an_encoder_is_told_what_to_do(tmp_path: Path) -> None:
    config = {"architectures": ["MPNetModel"], "model_type": "mpnet"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"embeddings.weight": np.zeros((4, 4), np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedError, match="is an encoder.*\n.*\n.*--preset onnx:int8"):
        kanna.fit(tmp_path)


def test_a_tight_memory_takes_another_preset_of_mlx(tmp_path: Path) -> None:
    model = folder_of("llama", "llama2", 32_000, tmp_path / "model")
    whole = kanna.fit(model, memory=1 << 30, context=64, format="mlx")
    least = {r.preset: r.memory_bytes for r in whole.rows}
    found = kanna.fit(model, memory=least["mlx:q4"], context=64, format="mlx")
    assert {r.preset for r in found.rows if r.fits} >= {"mlx:q4", "mlx:q3", "mlx:q2"}
    assert found.recommended is not None and least[found.recommended] <= least["mlx:q4"]
    with pytest.raises(UsageError, match="'tar'"):
        kanna.fit(model, format="tar")

"""Diagonals beside those of llama-imatrix, on the same tokens."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import kanna
from kanna import families
from kanna._util.progress import Silent
from kanna.calibration import imatrix, statistics
from kanna.calibration.run import run
from kanna.calibration.windows import CalibrationWindows
from kanna.formats import gguf
from kanna.sources import packages

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from helpers import tiny_models  # noqa: E402 - needs torch

CHUNK, CHUNKS = 512, 3
BOUND, WORST = 1e-3, 1e-2
"""Relative difference of a matrix's diagonal, and of any of its columns that is used at all."""
ROUTED = 10
"""So many times more for experts: a token between two of them may go to the other."""


def tool() -> Path:
    """llama-imatrix, on the PATH or as benchmarks/common/llamacpp.py builds it."""
    build = (
        Path(os.environ.get("LLAMA_BUILD", packages.cache_dir() / "peers" / "build"))
        / "bin"
        / "llama-imatrix"
    )
    found = shutil.which("llama-imatrix")
    if found is None and not build.is_file():
        pytest.skip("needs llama-imatrix: `python -m benchmarks.gguf.imatrix_agreement` builds it")
    return Path(found or build)


DENSE = ("llama", "qwen2", "gemma3", "gemma4", "lfm2", "qwen35")
EXPERTS = ("qwen3-moe", "qwen2-moe", "mixtral", "lfm2-moe", "granite-moe-shared")


@pytest.mark.parametrize("name", (*DENSE, *EXPERTS))
def test_the_same_tokens_give_the_same_diagonals(name: str, tmp_path: Path) -> None:
    program = tool()
    tiny_models.make(name, tmp_path / "model")
    kanna.convert(tmp_path / "model", tmp_path / "m.gguf", encoding="f32")
    text = tmp_path / "text.txt"
    text.write_text(tiny_models.TEXT * 40, encoding="utf-8")
    out = tmp_path / "peer.gguf"
    command = [
        program,
        "-m",
        tmp_path / "m.gguf",
        "-f",
        text,
        "-o",
        out,
        "-c",
        CHUNK,
        "--chunks",
        CHUNKS,
        "-t",
        1,
    ]
    options = ["--process-output", "--parse-special", "-b", CHUNK]
    found = subprocess.run(
        [str(c) for c in [*command, *options]], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr[-2000:]
    theirs = imatrix.read(out)
    model = families.load_model(kanna.open_source(tmp_path / "m.gguf"))
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_str(families.to_hf(model)[2]["tokenizer.json"].decode())
    # llama.cpp puts its first token before the text, and in the place of the first of every further
    # chunk.
    begin = model.meta("tokenizer.ggml.bos_token_id")
    adds = model.meta("tokenizer.ggml.add_bos_token", model.meta("tokenizer.ggml.model") == "llama")
    stream = [begin] * bool(adds) + tokenizer.encode(
        text.read_text(encoding="utf-8"), add_special_tokens=False
    ).ids
    ids = np.array(stream[: CHUNK * CHUNKS], np.int32).reshape(CHUNKS, CHUNK)
    if adds:
        ids[:, 0] = begin
    windows = CalibrationWindows(
        ids=ids, domains=[""] * CHUNKS, held=np.zeros(CHUNKS, np.bool_), held_texts=[]
    )
    (tmp_path / "stats").mkdir()
    sites = run(
        model, windows, tmp_path / "stats", {}, widest=4096, device="cpu", progress=Silent()
    ).sites
    index = {"sites": sites, "tokens": CHUNK * CHUNKS, "window": CHUNK, "text": {"name": "text"}}
    statistics.Statistics(tmp_path / "stats", index).save_imatrix(tmp_path / "ours.gguf")
    ours = imatrix.read(tmp_path / "ours.gguf").weights
    _same_layout(tmp_path / "ours.gguf", out)
    # The head of a tied model is not in theirs.
    assert set(ours) - {"token_embd.weight"} == set(theirs.weights)
    for tensor, b in theirs.weights.items():
        a = ours[tensor]
        loose = ROUTED if a.ndim == 2 else 1
        assert np.linalg.norm(a - b) < loose * BOUND * np.linalg.norm(b), tensor
        assert (np.abs(a - b) / np.maximum(b, 1e-3 * b.mean())).max() < loose * WORST, tensor


def _same_layout(ours: Path, theirs: Path) -> None:
    """Shapes, counts of tokens, and how they are cut into chunks."""
    a, b = gguf.read(ours), gguf.read(theirs)
    for key in ("imatrix.chunk_count", "imatrix.chunk_size"):
        assert a.value(key) == b.value(key), key
    for name, tensor in b.tensors.items():
        assert a.tensors[name].shape == tensor.shape, name
        if name.endswith(".counts"):
            rows = tensor.shape[0]
            moved = np.abs(a.tensors[name].rows(0, rows) - tensor.rows(0, rows)).sum()
            # The choice between two experts may hang on the last bit.
            assert moved <= 4, name

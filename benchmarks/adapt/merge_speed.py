"""`kanna merge` of an 8B shape: seconds beside those of writing as many bytes, and peak memory.

    python -m benchmarks.adapt.merge_speed              # Llama-3-8B's shape, 16 GB are written
    python -m benchmarks.adapt.merge_speed --layers 2   # its first layers alone, 3 GB

The base is a sparse file of zeros (see common/models.py), which takes no disk and no time to read:
what is timed is arithmetic and writing. The adapter is rank 16 on every matrix of the layers.
`write` copies zeros of the same size to the same disk and waits until they are on it. Both take
turns for `--rounds`, writing first, and medians are told; `start` is the CPU time of a dry run:
what a merge takes before it writes, whatever the size of the model.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from benchmarks.common import arguments, models, processes, tables
from safetensors.numpy import save_file

import kanna
from kanna.sources import packages

RANK = 16
_PART = 16 << 20
_SHAPES = {
    "self_attn.q_proj": (4096, 4096),
    "self_attn.k_proj": (1024, 4096),
    "self_attn.v_proj": (1024, 4096),
    "self_attn.o_proj": (4096, 4096),
    "mlp.gate_proj": (14336, 4096),
    "mlp.up_proj": (14336, 4096),
    "mlp.down_proj": (4096, 14336),
}
"""Rows and columns of the matrices of a layer."""


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    base = models.hollow(options.layers)
    home = packages.cache_dir() / "benchmarks" / "merge"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    try:
        adapter, out = _adapter(home / "adapter", options.layers), home / "merged"
        merge = ("merge", base, adapter, "-o", out, "--threads", options.threads)
        start = processes.run(processes.kanna(*merge, "--dry-run"))
        size = kanna.merge(base, adapter, out, dry_run=True).file_bytes
        rounds = [_round(home / "plain", size, merge, out) for _ in range(options.rounds)]
    finally:
        shutil.rmtree(home)
    row: dict[str, Any] = {"layers": options.layers, "GB": size / 1e9, "start CPU s": start.cpu}
    row |= {name: median(one[name] for one in rounds) for name in rounds[0]}
    row["peak MB"] = max(one["peak MB"] for one in rounds)
    tables.print_rows([row], options.json)


def _round(plain: Path, size: int, merge: Sequence[object], out: Path) -> dict[str, float]:
    """One of each, after which their files are gone: what both took."""
    begin = os.times()
    seconds = _write(plain, size)
    end = os.times()
    plain.unlink()
    run = processes.run(processes.kanna(*merge))
    shutil.rmtree(out)
    cpu = end.user + end.system - begin.user - begin.system
    return {
        "s": run.seconds,
        "CPU s": run.cpu,
        "write s": seconds,
        "write CPU s": cpu,
        "ratio": run.seconds / seconds,
        "CPU ratio": run.cpu / cpu,
        "peak MB": run.anonymous / 1e6,
    }


def _adapter(folder: Path, layers: int) -> Path:
    """An adapter of every matrix, as PEFT saves it."""
    folder.mkdir()
    rng = np.random.default_rng(3)
    values: dict[str, np.ndarray] = {}
    for layer in range(layers):
        for name, (rows, cols) in _SHAPES.items():
            stem = f"base_model.model.model.layers.{layer}.{name}"
            values[f"{stem}.lora_A.weight"] = rng.standard_normal((RANK, cols), np.float32)
            values[f"{stem}.lora_B.weight"] = rng.standard_normal((rows, RANK), np.float32)
    save_file(values, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "target_modules": [name.rpartition(".")[2] for name in _SHAPES],
        "task_type": "CAUSAL_LM",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def _write(path: Path, count: int) -> float:
    """Seconds until so many bytes are on the disk."""
    part = bytes(_PART)
    begin = time.perf_counter()
    with path.open("wb") as file:
        for at in range(0, count, _PART):
            file.write(part[: count - at])
        file.flush()
        os.fsync(file.fileno())
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()

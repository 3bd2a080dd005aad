"""Encoders beside ggml's, on real tensors.

    python -m benchmarks.gguf.encoders speed   # million weights per second and core
    python -m benchmarks.gguf.encoders error --layers 30   # squared error, ours ÷ ggml's

Speed: one thread, with an importance matrix, both encoders in this process, alternating, median.
ggml compiles its encoders for the baseline instruction set, in a native build too; ours choose
theirs at run time.
Error: weighted by the importance matrix where both were given it, plain where neither was. Without
one our default weighting aims at KL (see preset_quality.py), not at plain error. K-types fit few
tensors of the dithered model.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from benchmarks.common import arguments, models, tables

from kanna import encodings
from kanna.calibration import imatrix
from kanna.encodings import _ggml
from kanna.formats import gguf

TYPES = "q2_k,q3_k,q4_k,q5_k,q6_k,iq4_nl,iq4_xs,q4_0,q4_1,q5_0,q5_1,q8_0"
PARTS = "attn_q attn_k attn_v attn_output ffn_gate ffn_up ffn_down"
Weighted = tuple[np.ndarray, np.ndarray]
"""Values [rows, columns] of a matrix and the importance [columns] of its columns."""


def load(path: Path, layers: int) -> dict[str, Weighted]:
    """Values and importance of the matrices of `layers` layers, spread over a model's depth."""
    tensors, weights = gguf.read(path).tensors, imatrix.read(models.imatrix(path)).weights
    depth = sum(name.endswith("ffn_up.weight") for name in tensors)
    matrices: dict[str, Weighted] = {}
    for layer in sorted({round(i) for i in np.linspace(0, depth - 1, layers)}):
        for part in PARTS.split():
            name = f"blk.{layer}.{part}.weight"
            matrices[name] = tensors[name].rows(0, tensors[name].shape[0]), weights[name]
    return matrices


def encode_with_ggml(
    encoding: encodings.Encoding, x: np.ndarray, weights: np.ndarray | None
) -> np.ndarray:
    return _ggml.quantize(encoding, x, weights)


def speed(encoding: encodings.Encoding, data: Weighted, repeats: int) -> dict[str, object]:
    """Million weights per second of ours and of ggml's, one thread each."""
    x, weights = data
    sides: list[Callable[[], object]] = [
        lambda: encoding.encode(x, weights=weights),
        lambda: encode_with_ggml(encoding, x, weights),
    ]
    seconds: list[list[float]] = [[], []]
    for _ in range(repeats):
        for side, times in zip(sides, seconds, strict=True):
            start = time.perf_counter()
            side()
            times.append(time.perf_counter() - start)
    ours, theirs = (x.size / median(times) / 1e6 for times in seconds)
    return {"type": encoding.label, "M weights/s": ours, "ggml": theirs, "× faster": ours / theirs}


def error_ratio(encoding: encodings.Encoding, data: Weighted, weighted: bool) -> float:
    """Squared error, ours ÷ ggml's.

    Both with the importance matrix and weighted by it, or neither.
    """
    x, weights = data

    def error(code: np.ndarray) -> float:
        off = np.square(x - encoding.decode(code, x.shape[1]), dtype=np.float64)
        return float((off @ weights.astype(np.float64)).sum() if weighted else off.sum())

    use = weights if weighted else None
    return error(encoding.encode(x, weights=use)) / error(encode_with_ggml(encoding, x, use))


def errors(
    encoding: encodings.Encoding, sources: dict[str, dict[str, Weighted]], pool: ThreadPoolExecutor
) -> dict[str, object]:
    """Mean and largest error ratio over the tensors of each model that the encoding fits."""
    row: dict[str, object] = {"type": encoding.label}
    for label, weighted in (("imatrix", True), ("plain", False)):
        for name, tensors in sources.items():
            fitting = [d for d in tensors.values() if d[0].shape[1] % encoding.block == 0]
            ratios = list(pool.map(partial(error_ratio, encoding, weighted=weighted), fitting))
            row[f"{name} {label}"] = float(np.mean(ratios))
            row[f"max, {name} {label}"] = max(ratios)
    return row


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("measure", choices=["speed", "error"], nargs="?", default="speed")
    parser.add_argument("--types", default=TYPES)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--threads", type=int, default=2, help="for the errors; speed is always one thread"
    )
    options = parser.parse_args()
    chosen = [encodings.get(name) for name in options.types.split(",")]
    if options.measure == "speed":
        sample = load(models.widened(), 3)["blk.14.ffn_up.weight"]
        rows = [speed(encoding, sample, options.repeats) for encoding in chosen]
    else:
        sources = {
            name: load(getattr(models, name)(), options.layers) for name in ("widened", "dithered")
        }
        with ThreadPoolExecutor(options.threads) as pool:
            rows = [errors(encoding, sources, pool) for encoding in chosen]
    tables.print_rows(rows, options.json)


if __name__ == "__main__":
    main()

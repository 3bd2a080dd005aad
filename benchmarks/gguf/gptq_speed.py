"""How fast the method gptq is at the row widths of large models.

    python -m benchmarks.gguf.gptq_speed
    python -m benchmarks.gguf.gptq_speed --encodings q4_k --columns 14336 --rows 128

Random weights and a random second moment with a few strong directions; one thread, CPU seconds,
the median of `--turns`. `gptq` includes the search that it begins with. `of the limit`: the
multiplications and subtractions that its passes over the second moment need, as a part of what
this processor could do at `--ghz` with two vectors of `--vector` floats in each cycle.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
from benchmarks.common import arguments, tables

from kanna import _native, encodings, methods
from kanna.methods import Inputs
from kanna.methods.gptq import PASSES, ROUNDS
from kanna.methods.hessian import SecondMoment
from kanna.model import F32

ENCODINGS = "q4_k,q6_k,q2_k,q4_0,iq2_xxs,iq2_s,iq3_s"
HALF = 0.5
"""A total of errors and a pass of rounding read half of a matrix."""


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("--encodings", default=ENCODINGS)
    parser.add_argument("--columns", default="1024,4096")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--ghz", type=float, default=2.7)
    parser.add_argument("--vector", type=int, default=16)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for columns in (int(c) for c in options.columns.split(",")):
        moment = _moment(columns)
        for name in options.encodings.split(","):
            rows.append(_measured(name, moment, options))
    tables.print_rows(rows, options.json)


def _moment(columns: int) -> F32:
    rng, tokens = np.random.default_rng(0), columns + 200
    x = rng.standard_normal((tokens, columns), dtype=np.float32)
    strong = rng.standard_normal((tokens, 6), dtype=np.float32)
    x += 3 * strong @ rng.standard_normal((6, columns), dtype=np.float32)
    x *= np.exp(rng.standard_normal(columns, dtype=np.float32) * np.float32(0.5))
    return x.T @ x / np.float32(tokens)


def _measured(name: str, moment: F32, options: Any) -> dict[str, Any]:
    columns, encoding, method = len(moment), encodings.get(name), methods.get("gptq")
    weights = np.random.default_rng(1).standard_normal((options.rows, columns), dtype=np.float32)
    second_moment = SecondMoment(lambda: [moment], shrink=0.1)
    begin = time.process_time()
    second_moment.blocks()[0].factors_for(_native.grids()[name])
    factor = time.process_time() - begin
    inputs = Inputs(weights=moment.diagonal().copy(), second_moment=second_moment)
    seconds: list[float] = []
    for _ in range(options.turns):
        begin = time.process_time()
        method.encode(encoding, weights, inputs, threads=1)
        seconds.append(time.process_time() - begin)
    passes = HALF + PASSES * (HALF + 1 + (ROUNDS - HALF) + HALF)
    operations = 2 * passes * columns * weights.size
    limit = options.ghz * 1e9 * 2 * options.vector
    middle = statistics.median(seconds)
    return {
        "encoding": name,
        "columns": columns,
        "Mweights / CPU s": weights.size / 1e6 / middle,
        "of the limit": operations / limit / middle,
        "factor, CPU s": factor,
    }


if __name__ == "__main__":
    main()

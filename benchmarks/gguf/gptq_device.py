"""How fast the method gptq is on an accelerator, and how close it comes to the native code.

    PYTHONPATH=src python -m benchmarks.gguf.gptq_device
    PYTHONPATH=src python -m benchmarks.gguf.gptq_device --encodings q4_k --columns 14336

Needs numpy, torch, and Triton where there are kernels for. Random weights; the second moment is
that of inputs with a few strong directions, unequal columns and noise. `search` is the search for
scales on the CPU by all threads, `factor` the Cholesky factorization, and `Mweights/s` is of error
feedback with its transfers, once kernels are compiled (`first`: the first rows, with compiling).
`of native` is tr((W - Q) H (W - Q)') over that of the native code for the same rows, `of search`
over that of the rows it begins with. `memory`: the most that torch held on the device, in GB.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from benchmarks.common import arguments, tables

from kanna import _native, encodings
from kanna.encodings import Encoding
from kanna.methods import device, gptq
from kanna.methods.device import moments
from kanna.methods.device.moments import DeviceMoment
from kanna.methods.hessian import SecondMoment
from kanna.model import F32, U8

ENCODINGS = "q4_k,q6_k,q4_0,iq4_xs,q3_k,nbits4g32,affine4g64"
STRONG, TOKENS = 64, 1.25
"""Strong directions of the inputs, and tokens for each column."""


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("--encodings", default=ENCODINGS)
    parser.add_argument("--columns", default="4096,14336")
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--compared", type=int, default=64, help="rows for the native code")
    parser.add_argument("--device", default=None)
    parser.add_argument("--seconds", type=float, default=90, help="begin nothing after these")
    parser.add_argument("--profile", action="store_true", help="show what takes the time")
    options = parser.parse_args()
    begin = time.perf_counter()
    where = device.pick(options.device) if options.device != "cpu" else "cpu"
    print(f"torch {torch.__version__}, device {where}, {os.cpu_count()} CPUs", flush=True)
    rows: list[dict[str, Any]] = []
    for columns in (int(c) for c in options.columns.split(",")):
        second, factor = _moment(columns, where)
        for name in options.encodings.split(","):
            if time.perf_counter() - begin < options.seconds:
                rows.append(_measured(name, second, options) | {"factor, s": factor})
                print(rows[-1], flush=True)
        moments.forget()
    for line in device.remarks.taken():
        print(line)
    tables.print_rows(rows, options.json)


def _moment(columns: int, where: str) -> tuple[SecondMoment, float]:
    """A second moment, and the seconds that its factors took on the device."""
    rng = torch.Generator(where).manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng, device=where)

    tokens = int(TOKENS * columns)
    strong = torch.exp(-torch.arange(STRONG, device=where) / 16)
    x = 0.5 * normal(tokens, columns) + normal(tokens, STRONG) * strong @ normal(STRONG, columns)
    x *= torch.exp(0.5 * normal(columns))
    block = (x.T @ x / tokens).cpu().numpy()
    del x
    second = SecondMoment(lambda: [block], shrink=0.1, device=where)
    moments.moments_on(second, where)
    moments.forget()
    _wait(where)
    begin = time.perf_counter()
    moments.moments_on(second, where)
    _wait(where)
    return second, time.perf_counter() - begin


def _measured(name: str, second: SecondMoment, options: Any) -> dict[str, Any]:
    encoding, where = encodings.get(name), second.device
    moment = moments.moments_on(second, where)[0]
    columns = moment.stop
    weights = np.random.default_rng(1).standard_normal((options.rows, columns), dtype=np.float32)
    weights *= np.float32(0.02)
    power = moment.h.diagonal().cpu().numpy()
    begin = time.perf_counter()
    start = encoding.encode(weights, weights=power, threads=os.cpu_count() or 1)
    search = time.perf_counter() - begin
    step = max(1, min(options.rows, device.BLOCK_WEIGHTS // columns))
    begin = time.perf_counter()
    once = _on_device(name, weights[:step], start[:step], second)
    first = time.perf_counter() - begin
    if where.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    parts = [
        _on_device(name, weights[at : at + step], start[at : at + step], second)
        for at in range(0, options.rows, step)
    ]
    seconds = time.perf_counter() - begin
    memory = torch.cuda.max_memory_allocated() / 1e9 if where.startswith("cuda") else None
    if options.profile:
        _profile(lambda: _on_device(name, weights[:step], start[:step], second))
    few = slice(0, options.compared)
    x, before, after = weights[few], start[few], np.concatenate(parts)[few]
    native = _natively(name, x, before, moment)
    cost = _cost(encoding, after, x, moment)
    return {
        "encoding": name,
        "rows x columns": f"{options.rows} x {columns}",
        "seconds": seconds,
        "Mweights/s": weights.size / 1e6 / seconds,
        "memory, GB": memory,
        "of native": cost / _cost(encoding, native, x, moment),
        "of search": cost / _cost(encoding, before, x, moment),
        "same twice": np.array_equal(once, parts[0]),
        "first, s": first,
        "search, s": search,
    }


def _profile(work: Callable[[], object]) -> None:
    kinds = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[kinds.CPU, kinds.CUDA]) as profiler:
        work()
    for order in ("self_cuda_time_total", "self_cpu_time_total"):
        print(profiler.key_averages().table(sort_by=order, row_limit=12, max_name_column_width=50))


def _on_device(name: str, x: F32, data: U8, second: SecondMoment) -> U8:
    rows = device.better_rows(name, x, data, second, passes=gptq.PASSES, rounds=gptq.ROUNDS)
    assert rows is not None, device.remarks.taken()
    return rows


def _natively(name: str, x: F32, data: U8, moment: DeviceMoment) -> U8:
    """The rows that the native code makes, with the factors of the device."""
    data = data.copy()
    _native.feedback(
        name,
        x,
        data,
        h=moment.h.cpu().numpy(),
        factors=moment.m.cpu().numpy(),
        order=moment.order.cpu().numpy().astype(np.int32),
        passes=gptq.PASSES,
        rounds=gptq.ROUNDS,
        errors=np.empty((len(x), 2), np.float32),
        threads=os.cpu_count() or 1,
    )
    return data


def _cost(encoding: Encoding, data: U8, x: F32, moment: DeviceMoment) -> float:
    error = torch.from_numpy(encoding.decode(data, x.shape[1]) - x).to(moment.h.device)
    return float(((error @ moment.h) * error).sum(dim=1).cpu().double().sum())


def _wait(where: str) -> None:
    if where.startswith("cuda"):
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()

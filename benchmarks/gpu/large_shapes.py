"""What the stages of `optimize` take of an 8B model on an accelerator, from two of its layers.

    python -m benchmarks.gpu.large_shapes --device cuda

The shape is Llama-3-8B's, its weights random. Seconds of a layer are those of the second one, times
32; what belongs to no layer (the embedding, the head, loading) is added once. `peak` is the most
that PyTorch held on the device. Not in it: what runs in llama.cpp, on the CPU (probe, prove).
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import arguments, tables
from benchmarks.gpu import random_models

import kanna
from kanna import families
from kanna.calibration import TOKENS, gradients, statistics
from kanna.calibration.devices import pick_device
from kanna.calibration.texts import documents
from kanna.calibration.windows import cut
from kanna.conversion import ConversionRequest, WriteOptions, convert
from kanna.hardware.cpu import default_threads
from kanna.optimization.measure import measure

LAYERS = 32
_LAYER = re.compile(r"layer (\d+)|blk\.(\d+)\.")


class LayerClock:
    """Progress that gives every second to the layer that it went to; None: to none."""

    def __init__(self) -> None:
        self.seconds: dict[int | None, float] = {}
        self._last = time.perf_counter()

    def start(self, stage: str, total: int | None, unit: str = "bytes") -> None:
        """Nothing: what is before belongs to what comes first."""

    def advance(self, amount: int, detail: str = "") -> None:
        """Give the time since the last call to the layer in `detail`."""
        match = _LAYER.match(detail)
        self.add(int(match[1] or match[2]) if match else None)

    def finish(self) -> None:
        """Nothing."""

    def add(self, layer: int | None) -> None:
        """Give the time since the last call to a layer."""
        now = time.perf_counter()
        self.seconds[layer] = self.seconds.get(layer, 0.0) + now - self._last
        self._last = now


def timed(stage: str, device: str, work: Callable[[LayerClock], object]) -> dict[str, Any]:
    """A row: seconds of a stage, and of 32 layers of it."""
    import torch

    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    clock, begin = LayerClock(), time.perf_counter()
    work(clock)
    clock.add(None)
    whole = time.perf_counter() - begin
    layers = [seconds for layer, seconds in clock.seconds.items() if layer]
    each = sum(layers) / max(1, len(layers))
    first = clock.seconds.get(0, 0.0)
    return {
        "stage": stage,
        "two layers, s": whole,
        "of a layer, s": each,
        "32 layers, s": whole - sum(layers) - first + max(first, each) + (LAYERS - 1) * each,
        "peak, GB": torch.cuda.max_memory_allocated() / 1e9 if cuda else None,
    }


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("--device", default=None)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--preset", default="Q4_K_M")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--stages", default="calibrate,gradients,measure,write")
    parser.add_argument("--small", action="store_true", help="a small shape, to try the script")
    options = parser.parse_args()
    device = pick_device(options.device)
    small = {"hidden_size": 512, "intermediate_size": 1024, "vocab_size": 8192, "head_dim": 16}
    changes = {"num_hidden_layers": 2} | (small if options.small else {})
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        source = random_models.make(home / "model", random_models.LLAMA_8B, device, **changes)
        rows = stages(source, home, device, options)
        total = {
            "stage": "all of these",
            "two layers, s": sum(row["two layers, s"] for row in rows),
            "of a layer, s": sum(row["of a layer, s"] for row in rows),
            "32 layers, s": sum(row["32 layers, s"] for row in rows),
            "peak, GB": max((row["peak, GB"] or 0.0 for row in rows), default=0.0),
        }
        tables.print_rows([*rows, total], options.json)


def stages(source: Path, home: Path, device: str, options: Any) -> list[dict[str, Any]]:
    """A row of every stage, printed when it is there."""
    model = families.load_decoder(kanna.open_source(source))
    stats, tokens = home / "s", options.tokens
    rows: list[dict[str, Any]] = []

    def add(stage: str, work: Callable[[LayerClock], object]) -> None:
        if stage not in options.stages.split(","):
            return
        rows.append(timed(stage, device, work))
        print(rows[-1], flush=True)

    add(
        "calibrate",
        lambda p: kanna.calibrate(source, stats, tokens=tokens, device=device, progress=p),
    )
    read = statistics.read(stats)
    text = cut(documents(None, model)[0], model, tokens=tokens)
    add(
        "gradients",
        lambda p: gradients.gradients(model, text, stats, read.sha256, device=device, progress=p),
    )
    request = ConversionRequest(preset=options.preset, statistics=stats, device=device)

    def write(progress: LayerClock) -> object:
        writing = WriteOptions(threads=options.threads, progress=progress)
        return convert(source, home / "out.gguf", request, format="gguf", options=writing)

    add("write", write)
    add(
        "measure",
        lambda p: measure(
            model, read, home / "m.json", threads=options.threads, progress=p, device=device
        ),
    )
    return rows


if __name__ == "__main__":
    main()

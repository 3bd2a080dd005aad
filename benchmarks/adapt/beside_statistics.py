"""What a quantized base gains from statistics under the adapter that will lie beside it.

    python -m benchmarks.adapt.retention --model widened --domain tools   # trains the adapter
    python -m benchmarks.adapt.beside_statistics --model widened --domain tools

The base is calibrated twice on the training data, as it is and with `kanna calibrate --adapter`,
and quantized with each of the statistics. llama.cpp runs every file with the adapter, in float32,
beside it. Columns: `loss`, nats per token of held-out answers; `kept`, (base − file) ÷ (base −
tuned), with the 95 % interval; `KL` to the tuned model in 16 bits at the same tokens.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from benchmarks.adapt import domains
from benchmarks.common import arguments, models, processes, tables

from kanna import adapters
from kanna._util.progress import Silent
from kanna.sources import open_source, packages
from kanna.training import examples
from kanna.training.tokens import ChatTokenizer
from kanna.verification.retention import BesideBase, RetentionCase, measure

_MAX_LENGTH = 256
"""Tokens of an example at most."""


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("--model", choices=models.NAMES, default="widened")
    parser.add_argument("--domain", choices=domains.DOMAINS, default="tools")
    parser.add_argument("--presets", default="Q4_K_M,Q3_K_M", help="several with commas")
    parser.add_argument("--tokens", type=int, default=8192, help="to calibrate on")
    parser.add_argument("--judging", type=int, default=48, help="examples to judge by, at most")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    place = packages.cache_dir() / "benchmarks" / "adapt"
    source, left = place / f"{options.model}-base", place / f"{options.model}-{options.domain}"
    adapter = left / "adapter"
    if not adapter.is_dir():
        parser.error(f"{adapter} is not there: run benchmarks.adapt.retention first")
    threads, home = ("--threads", options.threads), left / "beside"
    home.mkdir(exist_ok=True)
    _run("convert", source, "--adapter", adapter, "-o", home / "lora.gguf", "--overwrite", *threads)
    rows: list[dict[str, Any]] = []
    files: list[BesideBase] = []
    for name, more in (("the base alone", ()), ("base and adapter", ("--adapter", adapter))):
        statistics = home / name.replace(" ", "-")
        how = ("--calibration", left / "train.jsonl", "--tokens", options.tokens)
        _run("calibrate", source, "-o", statistics, *how, *more)
        for preset in options.presets.split(","):
            file = home / f"{statistics.name}-{preset}.gguf"
            what = ("--preset", preset, "--statistics", statistics, "--overwrite")
            _run("convert", source, "-o", file, *what, *threads)
            files.append(BesideBase(base=file, adapter=home / "lora.gguf"))
            rows.append({"preset": preset, "statistics of": name, "MB": file.stat().st_size / 1e6})
    kept = _kept(source, adapter, files, left / "judging.jsonl", options)
    together = [row | one for row, one in zip(rows, kept, strict=True)]
    tables.print_rows(sorted(together, key=lambda row: row["preset"]), options.json)


def _run(*words: object) -> None:
    processes.run(processes.kanna(*words))


def _kept(
    source: Path, adapter: Path, files: list[BesideBase], held_out: Path, options: Any
) -> list[dict[str, Any]]:
    """What each file keeps, with the adapter beside it."""
    base = open_source(source)
    tuned = adapters.merged_source(base, adapters.open_adapters(adapter))
    judging = examples.read(held_out).examples[: options.judging]
    case = RetentionCase(
        base=base,
        tuned=tuned,
        artefacts=files,
        examples=ChatTokenizer.of_source(tuned, _MAX_LENGTH).all(judging),
        threads=options.threads,
    )
    made: list[dict[str, Any]] = []
    for one in measure(case, 0.0, Silent()):
        low, high = one.interval or (math.nan, math.nan)
        interval = f"{low:.3f} to {high:.3f}"
        made.append({"loss": one.artefact_loss, "kept": one.share, "95 %": interval, "KL": one.kl})
    return made


if __name__ == "__main__":
    main()

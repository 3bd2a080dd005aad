"""What `fit` predicts beside what `bench` measures: memory, and tokens per second.

    python -m benchmarks.hardware.predictions --memory
    python -m benchmarks.hardware.predictions --speed --models stories --formats gguf,openvino

Three models, up to eight encodings each, in the runtime of each format. Every file is made once and
kept in the cache. Memory is that of a process with its context full, less the interpreter's; it
does not depend on other programs, unless they need so much that mapped files are dropped. For
speeds, costs of encodings are measured first, unless they are kept (`kanna bench SRC --encodings`),
and the files of a model and format take turns. Speeds count on an idle machine alone: `busy` is
what other programs took of the processors meanwhile.
"""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import arguments, tables

import kanna
from kanna import formats, runtimes
from kanna._util.bars import shown
from kanna.benchmark import BenchRow, costs
from kanna.benchmark.full_context import full_context
from kanna.errors import KannaError
from kanna.families import load_decoder
from kanna.hardware.cpu import default_threads
from kanna.sizing import FitRow
from kanna.sources import open_source, packages

MODELS = {
    "stories": "builtin:stories15m",
    "smollm2": "builtin:smollm2-135m",
    "gemma3": "builtin:gemma3-270m",
}
PRESETS = {
    "gguf": ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q3_K_M", "Q2_K"),
    "onnx": ("fp32", "w8", "int4-mixed", "int4"),
    "mlx": ("f16", "q8", "q6", "q5", "mixed", "q4", "q3", "q2"),
    "openvino": (
        *("f32", "f16", "int8", "int8-sym"),
        *("int4-mixed", "int4", "int4-sym", "int4-g128"),
    ),
}
GENERATED = 64
BOUNDS = {"memory ratio": 0.03, "generation ratio": 0.10, "prompt ratio": 0.10}
"""How far a prediction may be off."""


def main() -> None:
    """Measure and print."""
    parser = arguments.parser(__doc__)
    parser.add_argument("--models", default=",".join(MODELS), help="by comma")
    parser.add_argument("--formats", default="gguf,onnx,openvino", help="by comma; mlx too")
    parser.add_argument("--presets", default="", help="by comma; all of the format otherwise")
    parser.add_argument("--memory", action="store_true", help="memory alone")
    parser.add_argument("--speed", action="store_true", help="tokens per second alone")
    parser.add_argument("--repeat", type=int, default=5, help="rounds; medians count")
    parser.add_argument("--context", type=int, default=512, help="tokens in memory")
    parser.add_argument("--prompt", type=int, default=512, help="tokens that are read")
    parser.add_argument("--threads", type=int, help="one per core otherwise")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for model in given.models.split(","):
        for format in given.formats.split(","):
            rows += measured(model, format, given)
    tables.print_rows(rows, given.json)
    if not given.json:
        for column, bound in BOUNDS.items():
            if any(column in row for row in rows):
                print(share(rows, column, bound))


def share(rows: Sequence[dict[str, Any]], column: str, bound: float) -> str:
    """How many rows keep a bound."""
    ratios = [row[column] for row in rows if row[column] is not None]
    kept = sum(abs(ratio - 1) <= bound for ratio in ratios)
    return f"{column} within {bound:.0%}: {kept} of {len(ratios)}"


def measured(model: str, format: str, given: Namespace) -> list[dict[str, Any]]:
    """A row for every preset of a format that can hold the model."""
    source, threads = MODELS[model], given.threads or default_threads()
    wanted = given.presets.split(",") if given.presets else PRESETS[format]
    made = {name: path for name in wanted if (path := file(model, format, name)) is not None}
    trained = [runtimes.of(path).trained_context(path) or given.context for path in made.values()]
    context = min([given.context, *trained])
    rows: list[dict[str, Any]] = [
        {"model": model, "format": format, "preset": name} for name in made
    ]
    if not given.speed:
        fitted = predicted(source, format, context)
        for row, (name, path) in zip(rows, made.items(), strict=True):
            peak = full_context(path, context=context, threads=threads).peak
            row |= memory(fitted[name], peak)
            print(f"{model} {format}:{name} {row['memory ratio']:.3f}", file=sys.stderr, flush=True)
    if not given.memory:
        for path in made.values():
            read_anew(path)
        table = measured_costs(source, format, threads, made.values())
        benched = kanna.bench(
            list(made.values()),
            prompt_tokens=given.prompt,
            gen_tokens=GENERATED,
            repeat=given.repeat,
            threads=threads,
        )
        fitted = predicted(source, format, context, speeds=table)
        for row, name, one in zip(rows, made, benched, strict=True):
            row |= speeds(fitted[name], one)
    return rows


def read_anew(path: Path) -> None:
    """Take an artefact out of the system's file cache, where the system can.

    Pages of a file that was written while memory was short lie scattered, and a model in them was
    a quarter slower than in a copy; files of chance, which tell the costs, are written just before.
    """
    if hasattr(os, "posix_fadvise"):
        for name in [path] if path.is_file() else path.iterdir():
            with name.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measured_costs(source: str, format: str, threads: int, made: Iterable[Path]) -> Path:
    """The file of what encodings cost with so many threads, measured unless they are kept.

    A GGUF says which encodings it has; of folders all that `optimize` looks at are measured.
    """
    opened = open_source(source)
    named = [kanna.inspect(path).to_dict()["types"] for path in made]
    table = costs.measure_encodings(
        opened,
        load_decoder(opened),
        format,
        progress=shown(None),
        names=sorted({kind["encoding"] for kinds in named for kind in kinds} - {"f32"}),
        threads=threads,
    )
    folder = packages.cache_dir() / "benchmarks" / "predictions"
    path = folder / f"{source.rpartition(':')[2]}-{format}-{threads}.json"
    path.write_text(json.dumps(table.to_dict()), encoding="utf-8")
    return path


def predicted(source: str, format: str, context: int, **options: Any) -> dict[str, FitRow]:
    """What `fit` says of every preset, by its name."""
    fitted = kanna.fit(source, memory="1TB", context=context, format=format, **options)
    return {row.preset.rpartition(":")[2]: row for row in fitted.rows}


def memory(fitted: FitRow, peak: int) -> dict[str, Any]:
    """Megabytes of both, and their ratio."""
    return {
        "memory MB": fitted.memory_bytes / 1e6,
        "measured MB": peak / 1e6,
        "memory ratio": fitted.memory_bytes / peak,
    }


def speeds(fitted: FitRow, benched: BenchRow) -> dict[str, Any]:
    """Tokens per second of both, and their ratios."""
    cells: dict[str, Any] = {}
    pairs = {
        "generation": (fitted.tokens_per_second, benched.gen_tps),
        "prompt": (fitted.prompt_tokens_per_second, benched.prompt_tps),
    }
    for name, (guess, real) in pairs.items():
        cells[f"{name}/s"], cells[f"measured {name}/s"] = guess, real
        cells[f"{name} ratio"] = guess / real if guess else None
    return cells | {"busy": benched.busy}


def file(model: str, format: str, preset: str) -> Path | None:
    """An artefact, made when it is not there; None where the format cannot hold the model."""
    folder = packages.cache_dir() / "benchmarks" / "predictions"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{model}-{preset}{formats.get(format).suffix or '-' + format}"
    if not path.exists():
        try:
            kanna.convert(MODELS[model], path, preset=f"{format}:{preset}")
        except KannaError as error:
            print(f"{model} in {format}:{preset}: {error}")
            return None
    return path


if __name__ == "__main__":
    main()

"""Time and memory of whole conversions beside llama.cpp's.

Same source, same threads, alternating, medians.

    python -m benchmarks.gguf.speed                               # every case
    python -m benchmarks.gguf.speed --cases widened --presets Q6_K,Q2_K,IQ4_XS --repeats 5

gemma3
    bf16 folder of Gemma-3-270M → GGUF; llama.cpp: convert_hf_to_gguf.py, then llama-quantize.
widened
    16-bit GGUF → GGUF; llama.cpp: llama-quantize alone.
imatrix
    The same with an importance matrix.
hollow
    bf16 folder in the shape of Llama-3-8B; llama.cpp on its first two layers, whose embedding is
    its peak. Only the memory of this one means something: its weights are zeros.
hollow_experts
    The same in the shape of Qwen3-30B-A3B. Writes 18 GB; not among the default cases.

Of hollow cases the bytes written per second are shown, too, beside what the disk takes in one
piece. `--layers 2` makes them smaller, `--alone` runs kanna without llama.cpp beside it:

    python -m benchmarks.gguf.speed --cases hollow_experts --layers 2 --alone
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import arguments, llamacpp, models, processes, tables
from benchmarks.common.processes import Command

CASES = "gemma3,widened,imatrix,hollow"
HOLLOW = {
    "hollow": ("8B-shaped folder → Q4_K_M", models.hollow, 32),
    "hollow_experts": ("30B-A3B-shaped folder → Q4_K_M", models.hollow_experts, 48),
}
"""What a hollow case is called, what makes it, and layers of the whole model."""
_PIECE, _PIECES = 1 << 22, 256
"""Bytes of a write to the disk that is measured, and how many there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Commands of both sides that do the same job."""

    job: str
    ours: list[Command]
    theirs: list[Command]


def kanna_commands(
    source: Path, out: Path, preset: str, threads: int, imatrix: Path | None = None
) -> list[Command]:
    """Kanna's way from any source."""
    extra: list[str | Path] = ["--imatrix", imatrix] if imatrix else []
    common = ["--preset", preset, "--threads", str(threads), "--overwrite"]
    return [processes.kanna("convert", source, "-o", out, *common, *extra)]


def llamacpp_commands(source: Path, folder: Path, preset: str, threads: int) -> list[Command]:
    """llama.cpp's way from a Hugging Face folder; to Q8_0 its converter goes alone."""
    out, between = folder / "llama.gguf", folder / "between.gguf"
    if preset == "Q8_0":
        return [llamacpp.convert(source, out, "q8_0")]
    return [
        llamacpp.convert(source, between, "bf16"),
        llamacpp.quantize(between, out, preset, threads=threads),
    ]


def pairs(
    case: str,
    presets: list[str],
    threads: int,
    folder: Path,
    *,
    layers: int | None,
    alone: bool,
) -> Iterator[Pair]:
    """What is measured in one case; of a hollow model all layers, or some, and llama.cpp or not."""
    out = folder / "kanna.gguf"
    if case == "gemma3":
        source = models.gemma3()
        for preset in ("Q8_0", *presets):
            yield Pair(
                job=f"Gemma-3-270M folder → {preset}",
                ours=kanna_commands(source, out, preset, threads),
                theirs=llamacpp_commands(source, folder, preset, threads),
            )
    elif case in HOLLOW:
        job, made, whole = HOLLOW[case]
        source = made(layers or whole)
        yield Pair(
            job=f"{job}, {layers} layers" if layers else job,
            ours=kanna_commands(source, out, "Q4_K_M", threads),
            theirs=[] if alone else llamacpp_commands(made(2), folder, "Q4_K_M", threads),
        )
    else:
        source = models.widened()
        imatrix = models.imatrix(source) if case == "imatrix" else None
        theirs = folder / "llama.gguf"
        for preset in presets:
            yield Pair(
                job=f"widened 16-bit GGUF → {preset}" + (", imatrix" if imatrix else ""),
                ours=kanna_commands(source, out, preset, threads, imatrix),
                theirs=[
                    llamacpp.quantize(source, theirs, preset, threads=threads, imatrix=imatrix)
                ],
            )


def row(pair: Pair, repeats: int) -> dict[str, object]:
    """Both sides measured."""
    ours, theirs = processes.alternate(pair.ours, pair.theirs, repeats)
    return {
        "command": pair.job,
        "s": ours.seconds,
        "s llama.cpp": theirs.seconds,
        "time ratio": ours.seconds / theirs.seconds,
        "CPU time ratio": ours.cpu / theirs.cpu,
        "peak MB": ours.anonymous / 1e6,
        "peak MB llama.cpp": theirs.anonymous / 1e6,
        "memory ratio": ours.anonymous / theirs.anonymous,
    }


def hollow_row(pair: Pair, folder: Path) -> dict[str, object]:
    """A hollow model, once: memory beside llama.cpp's, bytes per second beside the disk's."""
    disk = disk_speed(folder)
    ours = processes.run_all(pair.ours)
    written = (folder / "kanna.gguf").stat().st_size / ours.seconds
    theirs = processes.run_all(pair.theirs) if pair.theirs else None
    return {
        "command": pair.job,
        "s": ours.seconds,
        "peak MB": ours.anonymous / 1e6,
        "peak MB llama.cpp": "" if theirs is None else theirs.anonymous / 1e6,
        "memory ratio": "" if theirs is None else ours.anonymous / theirs.anonymous,
        "written MB/s": written / 1e6,
        "disk MB/s": disk / 1e6,
        "disk ratio": written / disk,
    }


def disk_speed(folder: Path) -> float:
    """Bytes per second that the disk of a folder takes in one piece, until they are on it."""
    piece, path = os.urandom(_PIECE), folder / "disk"
    start = time.perf_counter()
    with path.open("wb") as file:
        for _ in range(_PIECES):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    path.unlink()
    return _PIECE * _PIECES / seconds


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("--cases", default=CASES)
    parser.add_argument("--presets", default="Q4_K_M")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, help="of hollow models; without it, all")
    parser.add_argument("--alone", action="store_true", help="hollow models without llama.cpp")
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    for case in options.cases.split(","):
        with tempfile.TemporaryDirectory() as place:
            folder, presets = Path(place), options.presets.split(",")
            for pair in pairs(
                case,
                presets,
                options.threads,
                folder,
                layers=options.layers,
                alone=options.alone,
            ):
                rows.append(
                    hollow_row(pair, folder) if case in HOLLOW else row(pair, options.repeats)
                )
    tables.print_rows(rows, options.json)


if __name__ == "__main__":
    main()

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
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import arguments, llamacpp, models, processes, tables
from benchmarks.common.processes import Command

CASES = "gemma3,widened,imatrix,hollow"


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


def pairs(case: str, presets: list[str], threads: int, folder: Path) -> Iterator[Pair]:
    """What is measured in one case."""
    out = folder / "kanna.gguf"
    if case == "gemma3":
        source = models.gemma3()
        for preset in ("Q8_0", *presets):
            yield Pair(
                job=f"Gemma-3-270M folder → {preset}",
                ours=kanna_commands(source, out, preset, threads),
                theirs=llamacpp_commands(source, folder, preset, threads),
            )
    elif case == "hollow":
        yield Pair(
            job="8B-shaped folder → Q4_K_M",
            ours=kanna_commands(models.hollow(), out, "Q4_K_M", threads),
            theirs=llamacpp_commands(models.hollow(2), folder, "Q4_K_M", threads),
        )
    elif case == "hollow_experts":
        yield Pair(
            job="30B-A3B-shaped folder → Q4_K_M",
            ours=kanna_commands(models.hollow_experts(), out, "Q4_K_M", threads),
            theirs=llamacpp_commands(models.hollow_experts(2), folder, "Q4_K_M", threads),
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


def row(pair: Pair, repeats: int, *, memory_only: bool) -> dict[str, object]:
    """Both sides measured; `memory_only`: once, since their times cannot be compared."""
    if memory_only:
        ours, theirs = processes.run_all(pair.ours), processes.run_all(pair.theirs)
    else:
        ours, theirs = processes.alternate(pair.ours, pair.theirs, repeats)
    return {
        "command": pair.job,
        "s": ours.seconds,
        "s llama.cpp": theirs.seconds,
        "time ratio": "" if memory_only else ours.seconds / theirs.seconds,
        "CPU time ratio": "" if memory_only else ours.cpu / theirs.cpu,
        "peak MB": ours.anonymous / 1e6,
        "peak MB llama.cpp": theirs.anonymous / 1e6,
        "memory ratio": ours.anonymous / theirs.anonymous,
    }


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("--cases", default=CASES)
    parser.add_argument("--presets", default="Q4_K_M")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    for case in options.cases.split(","):
        with tempfile.TemporaryDirectory() as folder:
            for pair in pairs(case, options.presets.split(","), options.threads, Path(folder)):
                rows.append(row(pair, options.repeats, memory_only=case.startswith("hollow")))
    tables.print_rows(rows, options.json)


if __name__ == "__main__":
    main()

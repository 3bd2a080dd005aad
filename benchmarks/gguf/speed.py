"""Time and memory of whole commands beside llama.cpp's.

Same source, same threads, alternating, medians.

    python -m benchmarks.gguf.speed                               # every case
    python -m benchmarks.gguf.speed --cases widened --presets Q6_K,Q2_K,IQ4_XS --repeats 5

gemma3    bf16 folder of Gemma-3-270M → GGUF; llama.cpp: convert_hf_to_gguf.py, then llama-quantize
widened   16-bit GGUF → GGUF; llama.cpp: llama-quantize alone. imatrix: the same with an importance
matrix hollow    bf16 folder in the shape of Llama-3-8B; llama.cpp on its first two layers, whose
embedding is its peak. Only the memory of this one means something: its weights are zeros.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.common import models, peers

CASES = "gemma3,widened,imatrix,hollow"
Commands = list[list[str | Path]]


def kanna(
    source: Path, out: Path, preset: str, threads: int, imatrix: Path | None = None
) -> Commands:
    extra: list[str | Path] = ["--imatrix", imatrix] if imatrix else []
    common = ["--preset", preset, "--threads", str(threads), "--overwrite"]
    return [peers.kanna("convert", source, "-o", out, *common, *extra)]


def llama(source: Path, folder: Path, preset: str, threads: int) -> Commands:
    """llama.cpp's way from a Hugging Face folder; to Q8_0 its converter goes alone."""
    out, between = folder / "llama.gguf", folder / "between.gguf"
    if preset == "Q8_0":
        return [peers.convert(source, out, "q8_0")]
    return [
        peers.convert(source, between, "bf16"),
        peers.quantize(between, out, preset, threads=threads),
    ]


def measure(
    case: str, presets: list[str], threads: int, folder: Path
) -> Iterator[tuple[str, Commands, Commands]]:
    """(what, our commands, llama.cpp's) of one case."""
    out = folder / "kanna.gguf"
    if case == "gemma3":
        for preset in ("Q8_0", *presets):
            source = models.gemma3()
            ours, theirs = (
                kanna(source, out, preset, threads),
                llama(source, folder, preset, threads),
            )
            yield f"Gemma-3-270M folder → {preset}", ours, theirs
    elif case == "hollow":
        ours = kanna(models.hollow(), out, "Q4_K_M", threads)
        yield "8B-shaped folder → Q4_K_M", ours, llama(models.hollow(2), folder, "Q4_K_M", threads)
    else:
        source = models.widened()
        imatrix = models.imatrix(source) if case == "imatrix" else None
        for preset in presets:
            theirs = [
                peers.quantize(
                    source, folder / "llama.gguf", preset, threads=threads, imatrix=imatrix
                )
            ]
            name = f"widened 16-bit GGUF → {preset}" + (", imatrix" if imatrix else "")
            yield name, kanna(source, out, preset, threads, imatrix), theirs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", default=CASES)
    parser.add_argument("--presets", default="Q4_K_M")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    for case in options.cases.split(","):
        with tempfile.TemporaryDirectory() as folder:
            for what, ours, theirs in measure(
                case, options.presets.split(","), options.threads, Path(folder)
            ):
                if case == "hollow":
                    mine, other = peers.together(ours), peers.together(theirs)
                else:
                    mine, other = peers.alternate(ours, theirs, options.repeats)
                rows.append(
                    {
                        "command": what,
                        "s": mine.seconds,
                        "s llama.cpp": other.seconds,
                        "time ratio": "" if case == "hollow" else mine.seconds / other.seconds,
                        "CPU time ratio": "" if case == "hollow" else mine.cpu / other.cpu,
                        "peak MB": mine.anonymous / 1e6,
                        "peak MB llama.cpp": other.anonymous / 1e6,
                        "memory ratio": mine.anonymous / other.anonymous,
                    }
                )
    peers.report(rows, options.json)


if __name__ == "__main__":
    main()

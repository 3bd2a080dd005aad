"""Time and memory of whole commands beside llama.cpp's, alternating, medians.

    python benchmarks/speed.py
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import models
import peers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--presets", default="Q8_0,Q6_K,Q4_K_M,Q2_K,IQ4_XS")
    parser.add_argument("--imatrix", type=Path, help="also measure with this importance matrix")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    source = models.widened()
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out.gguf")
        for imatrix in [None, options.imatrix] if options.imatrix else [None]:
            for preset in options.presets.split(","):
                extra: list[str | Path] = ["--imatrix", imatrix] if imatrix else []
                threads = ["--threads", str(options.threads), "--overwrite"]
                ours = peers.kanna("convert", source, "-o", out, "--preset", preset, *threads, *extra)
                theirs = peers.quantize(source, out, preset, threads=options.threads, imatrix=imatrix)
                mine, other = peers.alternate([ours], [theirs], options.repeats)
                rows.append(
                    {
                        "command": f"16-bit GGUF → {preset}" + (" with imatrix" if imatrix else ""),
                        "s": mine.seconds,
                        "s llama.cpp": other.seconds,
                        "time ratio": mine.seconds / other.seconds,
                        "anonymous MB": mine.anonymous / 1e6,
                        "anonymous MB llama.cpp": other.anonymous / 1e6,
                        "memory ratio": mine.anonymous / other.anonymous,
                    }
                )
    peers.report(rows, options.json)


if __name__ == "__main__":
    main()

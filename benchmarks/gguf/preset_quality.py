"""KL at equal bytes: every preset beside llama-quantize's, from the same 16-bit source.

    python -m benchmarks.gguf.preset_quality --model widened             # or dithered, stories python -m benchmarks.gguf.preset_quality --model widened --imatrix   # with an importance matrix on both sides

The reference is the source in float32 in the same runtime; windows of 512 tokens of WikiText-2 test
(stories15M: of 256 tokens of its own stories), the second half of each scored. The first row is the
floor: Q8_0 scored against its own weights in float32, that is what the runtime's quantized
activations cost when the weights are perfect.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import models, peers

import kanna
from kanna.evaluation import EvaluateResult, evaluate_many

PRESETS = "F16 BF16 Q8_0 Q6_K Q5_K_M Q5_K_S Q5_1 Q5_0 Q4_K_M Q4_K_S Q4_1 Q4_0 IQ4_NL IQ4_XS Q3_K_L Q3_K_M Q3_K_S Q2_K"


def score(
    files: Sequence[Path], source: Path, folder: Path, text: Path | None, windows: int, threads: int
) -> list[EvaluateResult]:
    """Scores against the source in float32."""
    exact = folder / "reference.gguf"
    kanna.convert(source, exact, encoding="f32", threads=threads, overwrite=True)
    return evaluate_many(files, reference=exact, text=text, windows=windows, threads=threads)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=["widened", "dithered", "stories"], default="widened")
    parser.add_argument("--presets", default=PRESETS.replace(" ", ","))
    parser.add_argument(
        "--imatrix", action="store_true", help="give both sides the model's importance matrix"
    )
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    source: Path = getattr(models, options.model)()
    imatrix = models.imatrix(source) if options.imatrix else None
    presets: list[str] = options.presets.split(",")
    text = models.stories_text() if options.model == "stories" else None
    measure = (text, options.windows, options.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours = [folder / f"{p}.kanna.gguf" for p in presets]
        theirs = [folder / f"{p}.llama.gguf" for p in presets]
        for preset, mine, other in zip(presets, ours, theirs, strict=True):
            kanna.convert(source, mine, preset=preset, imatrix=imatrix, threads=options.threads)
            peers.run(
                peers.quantize(source, other, preset, threads=options.threads, imatrix=imatrix)
            )
        scores = score(ours + theirs, source, folder, *measure)
        best = folder / "Q8_0.gguf"
        kanna.convert(source, best, preset="Q8_0", threads=options.threads)
        floor = score([best], best, folder, *measure)[0]
        rows: list[dict[str, object]] = [
            {
                "preset": "floor",
                "MB": "",
                "MB llama.cpp": "",
                "KL": floor.kl_mean,
                "KL llama.cpp": floor.kl_mean,
            }
            | {
                "ratio": "",
                "PPL": floor.reference_perplexity,
                "PPL llama.cpp": floor.reference_perplexity,
            }
        ]
        for i, preset in enumerate(presets):
            mine, other = scores[i], scores[i + len(presets)]
            rows.append(
                {
                    "preset": preset,
                    "MB": ours[i].stat().st_size / 1e6,
                    "MB llama.cpp": theirs[i].stat().st_size / 1e6,
                    "KL": mine.kl_mean,
                    "KL llama.cpp": other.kl_mean,
                    "ratio": mine.kl_mean / other.kl_mean if other.kl_mean else 1.0,
                    "PPL": mine.perplexity,
                    "PPL llama.cpp": other.perplexity,
                }
            )
    peers.report(rows, options.json)


if __name__ == "__main__":
    main()

"""KL at equal bytes: every preset beside llama-quantize's, from the same 16-bit source.

    python -m benchmarks.gguf.preset_quality --model widened             # or dithered, stories
    python -m benchmarks.gguf.preset_quality --model widened --imatrix   # one for both sides

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
from typing import Any

from benchmarks.common import arguments, llamacpp, models, processes, tables

import kanna
from kanna.evaluation import EvaluateResult, Extent, evaluate_many

PRESETS = (
    "F16,BF16,Q8_0,Q6_K,Q5_K_M,Q5_K_S,Q5_1,Q5_0,Q4_K_M,Q4_K_S,Q4_1,Q4_0,IQ4_NL,IQ4_XS,"
    "Q3_K_L,Q3_K_M,Q3_K_S,Q2_K"
)


def score(
    files: Sequence[Path], source: Path, folder: Path, options: argparse.Namespace
) -> list[EvaluateResult]:
    """Scores against the source in float32."""
    exact = folder / "reference.gguf"
    kanna.convert(source, exact, encoding="f32", threads=options.threads, overwrite=True)
    return evaluate_many(
        files,
        reference=exact,
        text=models.stories_text() if options.model.startswith("stories") else None,
        extent=Extent(windows=options.windows),
        threads=options.threads,
    )


def floor_row(source: Path, folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """Q8_0 scored against its own weights, in the columns of the other rows."""
    file = folder / "Q8_0.gguf"
    kanna.convert(source, file, preset="Q8_0", threads=options.threads)
    [floor] = score([file], file, folder, options)
    return {
        "preset": "floor",
        "MB": "",
        "MB llama.cpp": "",
        "KL": floor.kl_mean,
        "KL llama.cpp": floor.kl_mean,
        "ratio": "",
        "PPL": floor.reference_perplexity,
        "PPL llama.cpp": floor.reference_perplexity,
    }


def preset_rows(source: Path, folder: Path, options: argparse.Namespace) -> list[dict[str, object]]:
    """Both files of every preset, made and scored."""
    imatrix = models.imatrix(source) if options.imatrix else None
    presets: list[str] = options.presets.split(",")
    ours = [folder / f"{preset}.kanna.gguf" for preset in presets]
    theirs = [folder / f"{preset}.llama.gguf" for preset in presets]
    how: dict[str, Any] = {"imatrix": imatrix, "threads": options.threads}
    for preset, our_file, their_file in zip(presets, ours, theirs, strict=True):
        kanna.convert(source, our_file, preset=preset, **how)
        processes.run(llamacpp.quantize(source, their_file, preset, **how))
    scores = score(ours + theirs, source, folder, options)
    rows: list[dict[str, object]] = []
    for i, preset in enumerate(presets):
        our_score, their_score = scores[i], scores[i + len(presets)]
        rows.append(
            {
                "preset": preset,
                "MB": ours[i].stat().st_size / 1e6,
                "MB llama.cpp": theirs[i].stat().st_size / 1e6,
                "KL": our_score.kl_mean,
                "KL llama.cpp": their_score.kl_mean,
                "ratio": our_score.kl_mean / their_score.kl_mean if their_score.kl_mean else 1.0,
                "PPL": our_score.perplexity,
                "PPL llama.cpp": their_score.perplexity,
            }
        )
    return rows


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("--model", choices=["widened", "dithered", "stories"], default="widened")
    parser.add_argument("--presets", default=PRESETS)
    parser.add_argument(
        "--imatrix", action="store_true", help="give both sides the model's importance matrix"
    )
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    source: Path = getattr(models, options.model)()
    with tempfile.TemporaryDirectory() as folder:
        rows = preset_rows(source, Path(folder), options)
        rows.insert(0, floor_row(source, Path(folder), options))
    tables.print_rows(rows, options.json)


if __name__ == "__main__":
    main()

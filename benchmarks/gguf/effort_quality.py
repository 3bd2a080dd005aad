"""What `--effort max` is worth: whole runs of `kanna optimize` beside `--effort balanced`.

    python -m benchmarks.gguf.effort_quality --model stories_wide   # or dithered, widened, gemma3
    python -m benchmarks.gguf.effort_quality --classes IQ2_XXS,IQ1_M --tokens 8192

Both files of a class have the bytes of its preset. Scored as optimize_quality.py does: mean KL
divergence over five kinds of text, none of it calibration text. CPU seconds are those of the whole
command; calibration and what was measured are used again by later classes, as they are by users.
What is finished is kept in the cache.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from benchmarks.common import tables, workload
from benchmarks.common.workload import Workload

import kanna

CLASSES = "Q3_K_M,Q2_K,IQ2_M,IQ2_XXS,IQ1_M"
EFFORTS = ("balanced", "max")


def main() -> None:
    parser = workload.parser(__doc__, windows=5)
    parser.add_argument("--classes", default=CLASSES)
    parser.set_defaults(model="stories_wide")
    options = parser.parse_args()
    work = Workload(options)
    rows: list[dict[str, Any]] = []
    for name in options.classes.split(","):
        rows += _beside(work, name)
        tables.print_rows(rows[-len(EFFORTS) :], options.json)
    tables.print_rows(rows, options.json)
    ratios = [row["÷ balanced"] for row in rows if row["÷ balanced"]]
    print(f"\nMean ÷ balanced: {sum(ratios) / len(ratios):.2f}, largest {max(ratios):.2f}")


def _beside(work: Workload, size_class: str) -> list[dict[str, Any]]:
    """The row of each effort."""
    folder = work.folder / "efforts"
    rows: list[dict[str, Any]] = []
    for effort in EFFORTS:
        out = folder / f"{size_class}-{effort}.gguf"
        made = work.cached(f"effort-{size_class}-{effort}", _optimized, work, out)
        name = f"effort-{size_class}-{effort}-kl"
        kl = {kind: one for kind, (one,) in work.cached(name, work.divergences, [out]).items()}
        mean = sum(kl.values()) / len(kl)
        rows.append(
            {
                "size class": size_class,
                "effort": effort,
                "MB": out.stat().st_size / 1e6,
                "KL": mean,
                "÷ balanced": mean / rows[0]["KL"] if rows else "",
                **{kind: value / (rows[0][kind] if rows else 1) for kind, value in kl.items()},
                **made,
            }
        )
    return rows


def _optimized(work: Workload, out: Path) -> dict[str, Any]:
    """Run the whole command, and say what it took and which of its stages were kept."""
    size_class, _, effort = out.stem.rpartition("-")
    before = os.times()
    result = kanna.optimize(
        work.path,
        out.parent,
        like=size_class,
        effort=effort,
        tokens=work.options.tokens,
        threads=work.threads,
    )
    after = os.times()
    shutil.copyfile(result.artefact, out)
    return {
        "CPU s": round(sum(after[:4]) - sum(before[:4])),
        "kept": ", ".join(
            name
            for name, stage in (
                ("swaps", result.swaps),
                ("correction", result.correction),
                ("tuning", result.tuning),
            )
            if stage and stage["kept"]
        ),
    }


if __name__ == "__main__":
    main()

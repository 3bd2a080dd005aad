"""OpenVINO folders at equal widths, kanna beside nncf's compress_weights.

    pip install nncf==3.4.0; python -m benchmarks.openvino.convert_quality

Both sides put their weights into kanna's graph of the same source, and are scored by OpenVINO on
the same windows of five kinds of text, none of it calibration text, against the source in float32
in transformers. nncf gives head and embedding 8 bits per row, as its default and optimum's is;
kanna in groups of 256, which takes more bytes: they count.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import arguments, evaluation_text, models, tables

import kanna
from kanna.calibration import texts
from kanna.evaluation import evaluate_many
from kanna.evaluation.precision import Extent
from kanna.families import load_model
from kanna.sources import open_source

SOURCES = {"stories": "builtin:stories15m", "dithered": models.dithered}
LEARNED = {"awq": True, "scale_estimation": True}
PEERS: dict[str, dict[str, Any]] = {
    "int4_asym": {"mode": "INT4_ASYM"},
    "int4_sym": {"mode": "INT4_SYM"},
    "int4_asym awq+scale": {"mode": "INT4_ASYM", **LEARNED},
    "int4_asym gptq+awq+scale": {"mode": "INT4_ASYM", "gptq": True, **LEARNED},
}
"""Options of compress_weights, but for the group."""


def ours(group: int, *, symmetric: bool) -> str:
    """Our preset of the same widths."""
    return "int4" + ("-sym" if symmetric else "") + ("" if group == 32 else f"-g{group}")


def main() -> None:
    """Make, score and print."""
    parser = arguments.parser(__doc__)
    parser.add_argument("--model", choices=SOURCES, default="stories")
    parser.add_argument("--group", type=int, default=128, choices=(32, 64, 128))
    parser.add_argument("--peers", default=",".join(PEERS), help="by comma")
    parser.add_argument("--tokens", type=int, default=16384, help="of calibration")
    parser.add_argument("--windows", type=int, default=3, help="of each kind of text")
    given = parser.parse_args()
    chosen = SOURCES[given.model]
    source = chosen if isinstance(chosen, str) else chosen()
    folder = Path(tempfile.mkdtemp(prefix="openvino-"))
    try:
        rows = measured(source, folder, given)
    finally:
        shutil.rmtree(folder)
    tables.print_rows(rows, given.json)


def measured(source: str | Path, folder: Path, given: Any) -> list[dict[str, Any]]:
    """A row for every folder, ours and the peer's."""
    text = folder / "calibration.txt"
    documents, _ = texts.documents(None, load_model(open_source(source)))
    text.write_text("\n\n".join(d.text for d in documents), encoding="utf-8")
    base, statistics = folder / "f32", folder / "statistics"
    kanna.convert(source, base, preset="openvino:f32")
    kanna.calibrate(source, statistics, tokens=given.tokens)
    made: dict[str, Path] = {}
    for name in given.peers.split(","):
        options = PEERS[name] | {"group_size": given.group, "ratio": 1.0}
        if "awq" in options:
            options["text"] = str(text)
        made[f"nncf {name}"] = folder / f"nncf-{len(made)}"
        task = [str(base), str(made[f"nncf {name}"]), json.dumps(options)]
        subprocess.run([sys.executable, "-m", "benchmarks.openvino.peer", *task], check=True)
    for symmetric in (False, True):
        preset = ours(given.group, symmetric=symmetric)
        for with_statistics in (False, True):
            name = f"kanna {preset}" + (" gptq" if with_statistics else " search")
            made[name] = folder / name.replace(" ", "-")
            kanna.convert(
                source,
                made[name],
                preset=f"openvino:{preset}",
                statistics=statistics if with_statistics else None,
            )
    kinds = evaluation_text.files(
        load_model(open_source(source)), folder, stories=given.model.startswith("stories")
    )
    context = 256 if given.model.startswith("stories") else 512
    rows = [
        {"folder": name, "MB": (path / "openvino_model.bin").stat().st_size / 1e6}
        for name, path in made.items()
    ]
    for kind, path in kinds.items():
        results = evaluate_many(
            list(made.values()),
            reference=source,
            text=path,
            extent=Extent(context=context, windows=given.windows),
            threads=1,
        )
        for row, result in zip(rows, results, strict=True):
            row[kind] = result.kl_mean
            row[f"{kind} alike"] = result.top1
    for row in rows:
        row["KL"] = sum(row[kind] for kind in kinds) / len(kinds)
        row["alike"] = sum(row.pop(f"{kind} alike") for kind in kinds) / len(kinds)
    return rows


if __name__ == "__main__":
    main()

"""Peak memory of `kanna adapt --base-bits 4` on a 1B shape, of the whole process.

    python -m benchmarks.adapt.qlora_memory               # with the check in llama.cpp at its end
    python -m benchmarks.adapt.qlora_memory --no-verify   # without

The base has Llama-3.2-1B's shape and is a sparse file of zeros (see common/models.py): memory does
not depend on the values. Every step reads one text of 512 tokens, all of which are learned.

Columns: peaks of the command and what it starts, at one moment, in MB; `until trained`, with mapped
files too, before llama.cpp checks the adapter; seconds of that check and texts that it reads.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks.common import arguments, models, processes, tables

from kanna.calibration.texts import FOLDER
from kanna.sources import packages

_EXAMPLES = 12
_CHARACTERS = 4000
"""Of an example, which is cut to the tokens wanted."""


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-verify", action="store_true")
    options = parser.parse_args()
    base = models.hollow_1b(options.layers)
    home = packages.cache_dir() / "benchmarks" / "qlora"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    try:
        words = ["adapt", base, "--data", _texts(home / "data.jsonl"), "-o", home / "adapter"]
        words += ["--base-bits", 4, "--batch", 1, "--samples", 0, "--device", "cpu"]
        words += ["--minutes", 600, *(["--no-verify"] if options.no_verify else [])]
        words += ["--max-length", options.tokens, "--steps", options.steps]
        words += ["--rank", options.rank, "--threads", options.threads]
        run = processes.run(processes.kanna(*words), children=True)
        report = json.loads((home / "adapter" / "report.json").read_text(encoding="utf-8"))
    finally:
        shutil.rmtree(home)
    row: dict[str, Any] = {
        "layers": options.layers,
        "tokens": options.tokens,
        "s": run.seconds,
        "CPU s": run.cpu,
        "peak MB": run.anonymous / 1e6,
        "with mapped files": run.resident / 1e6,
        "until trained": report["costs"]["peak_bytes"] / 1e6,
    }
    if gate := report["gate"]:
        row |= {"gate": gate["status"], "gate s": gate["seconds"], "texts": gate["examples"]}
    tables.print_rows([row], options.json)


def _texts(path: Path) -> Path:
    """Different texts, each longer than what is read of it."""
    text = (FOLDER / "prose_1.txt").read_text(encoding="utf-8")
    step = max(1, (len(text) - _CHARACTERS) // _EXAMPLES)
    parts = (text[n * step : n * step + _CHARACTERS] for n in range(_EXAMPLES))
    path.write_text("".join(json.dumps({"text": part}) + "\n" for part in parts), encoding="utf-8")
    return path


if __name__ == "__main__":
    main()

"""Write src/kanna/hardware/operators.json: which encodings each backend of llama.cpp multiplies.

llama.cpp publishes one table per backend, docs/ops/*.csv, written by its own `test-backend-ops
support`. This reads them:

    python tools/operator_tables.py LLAMA_CPP --version 0c1e57098 --date 2026-10-01

An encoding is multiplied where every row of plain weights says yes: matrices that are neither
transposed, nor views, nor broadcast, times float32. The date is that of the snapshot; where
LLAMA_CPP is a git checkout, the date of each table is asked of git.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

OUT = Path(__file__).parent.parent / "src" / "kanna" / "hardware" / "operators.json"
_FIELD = re.compile(r"(\w+)=(\[[^\]]*\]|[\w.]+)")
_PLAIN = {
    "bs": "[1,1]",
    "nr": "[1,1]",
    "per": "[0,1,2,3]",
    "k_v": "0",
    "type_b": "f32",
    "permute": "[0,1,2,3]",
    "sinks": "0",
    "max_bias": "0.000000",
    "logit_softcap": "0.000000",
}
"""Weights as a decoder has them, and attention without what few families ask for."""
_HEADS = {"64", "128"}
_NO_WEIGHTS = {"i8", "i16", "i32", "i64", "f64", "q8_1", "q8_k", "count"}
Rows = Iterator[tuple[str, Mapping[str, str], bool]]


def rows(path: Path) -> Rows:
    """Operator, parameters and verdict of every row that is plain."""
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            parameters = dict(_FIELD.findall(row["op_params"]))
            if all(parameters.get(name, value) == value for name, value in _PLAIN.items()):
                yield row["op_name"], parameters, row["error_message"] == "yes"


def table(path: Path) -> dict[str, Any]:
    """What one backend multiplies, refuses, and may cache keys and values in."""
    verdicts: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for operator, parameters, works in rows(path):
        if operator in ("MUL_MAT", "MUL_MAT_ID"):
            encoding = parameters["type_a"].lower()
            if encoding not in _NO_WEIGHTS:
                verdicts[operator][encoding].append(works)
        elif operator == "FLASH_ATTN_EXT" and parameters["hsk"] in _HEADS:
            keys = parameters.get("type_K", parameters.get("type_KV", ""))
            values = parameters.get("type_V", parameters.get("type_KV", ""))
            if keys == values and parameters["hsk"] == parameters["hsv"]:
                verdicts[operator][keys.lower()].append(works)
    cache = verdicts["FLASH_ATTN_EXT"]
    return {
        "matrices": _sorted(verdicts["MUL_MAT"]),
        "experts": _sorted(verdicts["MUL_MAT_ID"]),
        # Rows of a cache that no sequence has are tested too: one that works is enough.
        "cache": sorted(name for name, each in cache.items() if any(each)),
    }


def _sorted(verdicts: Mapping[str, list[bool]]) -> dict[str, list[str]]:
    return {
        "multiplied": sorted(name for name, each in verdicts.items() if all(each)),
        "refused": sorted(name for name, each in verdicts.items() if not all(each)),
    }


def of_cpu(folder: Path) -> list[str]:
    """Encodings with a dot product in ggml's CPU code, which its own table need not have."""
    text = (folder / "ggml" / "src" / "ggml-cpu" / "ggml-cpu.c").read_text(encoding="utf-8")
    blocks = re.findall(r"\[GGML_TYPE_(\w+)\]\s*=\s*\{(.*?)\}", text, re.DOTALL)
    names = {name.lower() for name, block in blocks if ".vec_dot " in block}
    return sorted(name for name in names if name not in _NO_WEIGHTS)


def documented(folder: Path) -> list[str]:
    """What the page of the OpenCL backend says it supports, which may be newer than the table."""
    text = (folder / "docs" / "backend" / "OPENCL.md").read_text(encoding="utf-8")
    section = text.partition("## DataType Supports")[2].partition("\n## ")[0]
    return sorted(name.lower() for name in re.findall(r"\|\s*(\w+)\s*\|\s*Support\s*\|", section))


def git_date(folder: Path, path: Path) -> str:
    """Day of the last change to a table, or "" where git does not know it."""
    command = ["git", "-C", str(folder), "log", "-1", "--format=%cs", "--", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if (folder / ".git").is_dir() else ""


def main() -> None:
    """Write the file and say what is in it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="llama.cpp's source")
    parser.add_argument("--version", required=True, help="its commit or tag")
    parser.add_argument("--date", required=True, help="day of the snapshot, YYYY-MM-DD")
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    tables: dict[str, Any] = {}
    for path in sorted((asked.folder / "docs" / "ops").glob("*.csv")):
        tables[path.stem] = {"date": git_date(asked.folder, path) or asked.date, **table(path)}
    cpu = tables["CPU"]
    for kind in ("matrices", "experts"):
        known = {*cpu[kind]["multiplied"], *of_cpu(asked.folder)}
        cpu[kind] = {"multiplied": sorted(known), "refused": []}
    tables["OpenCL"]["documented"] = documented(asked.folder)
    written = {"version": asked.version, "date": asked.date, "backends": tables}
    asked.out.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    print(f"llama.cpp {asked.version} of {asked.date}:")
    for name, one in tables.items():
        print(f"  {name} ({one['date']}): {', '.join(one['matrices']['multiplied'])}")


if __name__ == "__main__":
    main()

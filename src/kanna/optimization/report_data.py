"""What the report of an optimization shows beyond a comparison.

Plans as pictures, the curve, kinds of text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kanna import encodings
from kanna._util.progress import Progress
from kanna.comparison.result_cache import Kept
from kanna.comparison.rows import Row
from kanna.optimization.kl_scorer import Judge, Spare
from kanna.optimization.local_search import State
from kanna.optimization.measure import Measured
from kanna.plan.allocate import Choice, frontier
from kanna.sources import Source

POINTS = 48


def pictures(rows: Sequence[Row], names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Every matrix of every row with its encoding and bits per weight, by our name.

    Args:
        names: Theirs → ours.
    """
    return [
        {
            "name": row.name,
            "tensors": [
                {
                    "name": names.get(t["name"], t["name"]),
                    "encoding": t["encoding"],
                    "bits": round(encodings.get(t["encoding"]).bits, 4),
                }
                for t in row.tensors
                if len(t["shape"]) > 1
            ],
        }
        for row in rows
    ]


def curve(
    choices: Sequence[Choice],
    free: Sequence[Choice],
    fixed: int,
    presets: Mapping[str, tuple[int, Mapping[str, str]]],
) -> dict[str, Any]:
    """Predicted KL divergence of the best plan of every size, and of the presets, from the same costs.

    Args:
        choices: What the planner may use.
        free: The same without the user's wishes, for presets, which know none.
        fixed: Bytes of the file that no plan changes.
        presets: Name → bytes of the file, encoding of each tensor.
    """
    points = frontier(choices, POINTS)
    costs = {c.name: {o.encoding: o.cost for o in c.options} for c in free}
    found: list[dict[str, Any]] = []
    for name, (size, chosen) in presets.items():
        # What was wider in the source than 16 bits costs no more than those.
        used = {t: "f16" if chosen.get(t) in ("f32", "bf16") else chosen.get(t, "") for t in costs}
        if all(used[t] in costs[t] for t in costs):
            found.append({"name": name, "bytes": size, "kl": sum(costs[t][used[t]] for t in costs)})
    return {
        "planned": [{"bytes": fixed + size, "kl": cost} for size, cost in points],
        "presets": sorted(found, key=lambda p: p["bytes"]),
    }


def domains(
    rows: Sequence[Row],
    source: Source,
    spare: Spare,
    folder: Path,
    kept: Kept,
    threads: int | None,
    bar: Progress,
) -> dict[str, Any]:
    """Mean KL divergence of every row on every kind of text; {} without text to spare."""
    if not spare.proof:
        return {}
    mark = hashlib.sha256(json.dumps(spare.proof).encode()).hexdigest()
    kinds = [domain for domain, _ in spare.proof]
    able = [r for r in rows if r.path and r.gate != "failed"]
    found: dict[str, dict[str, float]] = {}
    with Judge(source, spare.proof, folder, threads) as judge:
        for row in able:
            value = kept.get(row.path or "", "domains", mark)
            if value is None:
                scores = judge.kl(Path(row.path or ""), bar)
                value = {
                    k: float(np.mean([s for s, d in zip(scores, kinds, strict=True) if d == k]))
                    for k in kinds
                }
                kept.put(row.path or "", "domains", value, mark)
            found[row.name] = value
    return {
        "windows": {k: kinds.count(k) for k in dict.fromkeys(kinds)},
        "window": max(len(ids) for _, ids in spare.proof),
        "fitted": spare.fitted,
        "rows": [{"name": name, "kl": value} for name, value in found.items()],
    }


def swapped(state: State, name: str, by_kind: Mapping[str, Any]) -> dict[str, Any]:
    """What swaps came to. name.

    Of the artefact among the rows of `domains`, whose windows decided nothing.
    """
    after = next((r["kl"] for r in by_kind.get("rows", []) if r["name"] == name), None)
    windows: dict[str, int] = by_kind.get("windows", {})
    proof: dict[str, Any] | None = None
    if state.proof and after and not by_kind["fitted"]:
        mean = sum(after[kind] * count for kind, count in windows.items()) / sum(windows.values())
        proof = {"before": float(np.mean(state.proof)), "after": mean}
    decided: dict[str, float] | None = None
    if state.tries:
        decided = {"before": float(np.mean(state.start)), "after": float(np.mean(state.scores))}
    return {
        "tried": len(state.tries),
        "kept": sum(one["kept"] for one in state.tries),
        "factors": state.factors,
        "decided": decided,
        "reported": proof,
    }


def tell(
    rows: Sequence[Row],
    measured: Measured,
    curve_: dict[str, Any],
    domains_: dict[str, Any] | None = None,
    swaps: Sequence[Mapping[str, Any]] = (),
    tuned: Mapping[str, Any] | None = None,
    names: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """All of it, as report.json has it under `optimize`.

    Args:
        names: Of tensors that go by other names than ours → ours.
    """
    return {
        "pictures": pictures(rows, names or {}),
        "curve": curve_,
        "domains": domains_ or {},
        "swaps": [dict(s) for s in swaps],
        "tuned": dict(tuned) if tuned else None,
        "measured": measured.key,
    }

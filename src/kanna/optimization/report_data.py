"""What the report of an optimization shows beyond a comparison: plans, the curve, kinds of text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kanna import encodings
from kanna.comparison.result_cache import ResultCache
from kanna.comparison.rows import Row
from kanna.optimization.adapters.base import Adapter, PresetOffer
from kanna.optimization.kl_scorer import HeldOutWindows
from kanna.optimization.local_search import LocalSearch
from kanna.plan.allocate import Choice, frontier

POINTS = 48


def pictures(rows: Sequence[Row], names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Every matrix of every row with its encoding and bits per weight, by our name.

    Args:
        rows: Artefacts.
        names: Names of tensors in them → ours, where they differ.
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
    offers: Mapping[str, PresetOffer],
) -> dict[str, Any]:
    """Predicted KL divergence of the best plan of every size, and of the presets.

    Both come from the same costs.

    Args:
        choices: What the planner may use.
        free: The same without the user's constraints, for presets, which know none.
        fixed: Bytes of the artefact that no plan changes.
        offers: Presets by name.
    """
    points = frontier(choices, POINTS)
    predicted = preset_costs(free, offers)
    drawn = [{"name": n, "bytes": offers[n].file_bytes, "kl": kl} for n, kl in predicted.items()]
    return {
        "planned": [{"bytes": fixed + size, "kl": cost} for size, cost in points],
        "presets": sorted(drawn, key=lambda p: p["bytes"]),
    }


def preset_costs(free: Sequence[Choice], offers: Mapping[str, PresetOffer]) -> dict[str, float]:
    """Predicted KL divergence of the presets whose encodings were all measured, by name.

    Args:
        free: Choices without the user's constraints.
        offers: Presets by name.
    """
    costs = {c.name: {o.encoding: o.cost for o in c.options} for c in free}
    predicted: dict[str, float] = {}
    for name, offer in offers.items():
        # What was wider in the source than 16 bits costs no more than those.
        encodings_ = offer.encodings
        used = {
            t: "f16" if encodings_.get(t) in ("f32", "bf16") else encodings_.get(t, "")
            for t in costs
        }
        if all(used[t] in costs[t] for t in costs):
            predicted[name] = sum(costs[t][used[t]] for t in costs)
    return predicted


def domains(
    rows: Sequence[Row], adapter: Adapter, windows: HeldOutWindows, cache: ResultCache
) -> dict[str, Any]:
    """Mean KL divergence of every row on every kind of text; {} without text to measure on."""
    if not windows.proof:
        return {}
    mark = hashlib.sha256(json.dumps(windows.proof).encode()).hexdigest()
    kinds = [kind for kind, _ in windows.proof]
    scores_of: dict[str, dict[str, float]] = {}
    with adapter.scorer(windows.proof) as scorer:
        for row in (r for r in rows if r.path and r.gate != "failed"):
            path = row.path or ""
            means: dict[str, float] | None = cache.get(path, "domains", mark)
            if means is None:
                scores = scorer.kl(Path(path))
                means = {
                    k: float(
                        np.mean([s for s, kind in zip(scores, kinds, strict=True) if kind == k])
                    )
                    for k in kinds
                }
                cache.put(path, "domains", means, mark)
            scores_of[row.name] = means
    return {
        "windows": {k: kinds.count(k) for k in dict.fromkeys(kinds)},
        "window": max(len(ids) for _, ids in windows.proof),
        "fitted": windows.fitted,
        "rows": [{"name": name, "kl": value} for name, value in scores_of.items()],
    }


def swap_summary(trials: LocalSearch, name: str, by_kind: Mapping[str, Any]) -> dict[str, Any]:
    """What the local search came to.

    Args:
        trials: The local search.
        name: Of its artefact among the rows of `by_kind`.
        by_kind: What `domains` gave, whose windows decided nothing.
    """
    state = trials.state
    after = next((r["kl"] for r in by_kind.get("rows", []) if r["name"] == name), None)
    windows: dict[str, int] = by_kind.get("windows", {})
    reported: dict[str, Any] | None = None
    if state.proof and after and not by_kind["fitted"]:
        mean = sum(after[kind] * count for kind, count in windows.items()) / sum(windows.values())
        reported = {"before": float(np.mean(state.proof)), "after": mean}
    decided: dict[str, float] | None = None
    if state.tries:
        decided = {"before": float(np.mean(state.start)), "after": float(np.mean(state.scores))}
    return {
        "tried": len(state.tries),
        "kept": trials.kept,
        "factors": state.factors,
        "decided": decided,
        "reported": reported,
    }

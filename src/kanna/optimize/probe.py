"""Predictions held against the runtime: how much KL divergence each kind of tensor really costs.

Every kind is quantized alone, the rest left at 16 bits, and measured on held-out calibration text in llama.cpp. What
was measured over what was predicted scales the costs of that kind, which sets right what a second-order view of a deep
network misses.
"""

from __future__ import annotations

import json
import re
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from kanna import encodings
from kanna.convert import convert
from kanna.evaluate import evaluate_many
from kanna.optimize.measure import Measured
from kanna.optimize.search import NAME
from kanna.plan import Plan, RuleModel
from kanna.progress import Progress
from kanna.sources import Source

BITS = 4.6
"""Probes use the encoding nearest to this many bits."""
WINDOWS = 6
LIMITS = (0.2, 5.0)


def kind_of(name: str) -> str:
    """`ffn_down` of `blk.3.ffn_down.weight`; the embedding and the head are kinds of their own."""
    return re.sub(r"^blk\.\d+\.", "", name).removesuffix(".weight")


def probe(
    source: Source,
    measured: Measured,
    statistics: Path,
    text: Path,
    out: Path,
    *,
    threads: int | None,
    progress: Progress,
) -> dict[str, float]:
    """Scale of the costs of each tensor; kept in `out` for the next budget."""
    kinds: dict[str, list[str]] = {}
    for name in measured.costs:
        kinds.setdefault(kind_of(name), []).append(name)
    kept: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        kept = json.loads(out.read_text(encoding="utf-8"))
    if kept.get("key") != measured.key:
        found = _measure(source, measured, statistics, text, kinds, out, threads, progress)
        kept = {"key": measured.key, "kinds": found}
        partial = out.with_name(out.name + ".partial")
        partial.write_text(json.dumps(kept, indent=1), encoding="utf-8")
        partial.replace(out)
    low, high = LIMITS
    scale: dict[str, float] = {}
    for kind, names in kinds.items():
        one: dict[str, float] = kept["kinds"][kind]
        ratio = max(one["measured"], 0.0) / max(one["predicted"], 1e-12)
        scale |= dict.fromkeys(names, min(max(ratio, low), high))
    return scale


def _measure(
    source: Source,
    measured: Measured,
    statistics: Path,
    text: Path,
    kinds: dict[str, list[str]],
    out: Path,
    threads: int | None,
    progress: Progress,
) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        paths: list[Path] = []
        for kind, names in [("none", []), *kinds.items()]:
            rules: list[RuleModel] = []
            predicted = 0.0
            for name in names:
                costs = measured.costs[name]
                encoding = min(costs, key=lambda e: abs(encodings.get(e).bits - BITS))
                predicted += costs[encoding]
                rules.append(RuleModel(pattern=f"^{re.escape(name)}$", encoding=encoding, method="gptq"))
            found[kind] = {"predicted": predicted}
            paths.append(Path(folder) / f"{kind}.gguf")
            convert(
                source, paths[-1], plan=Plan(name=NAME, encoding="f16", rules=rules), statistics=statistics,
                threads=threads, progress=progress,
            )  # fmt: skip
        scores = evaluate_many(paths, reference=source, text=text, windows=WINDOWS, threads=threads, progress=progress)
    floor = scores[0].kl_mean
    for kind, score in zip(found, scores, strict=True):
        found[kind]["measured"] = score.kl_mean - floor
    del found["none"]
    return found

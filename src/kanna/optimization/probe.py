"""Predictions held against the runtime: how much KL divergence each kind of tensor really costs.

Every kind is quantized alone, the rest left at 16 bits, and measured on held-out calibration text
in llama.cpp. What was measured over what was predicted scales the costs of that kind, which sets
right what a second-order view of a deep network misses. Two files are on the disk at a time: the
one at 16 bits throughout, and that of one kind.
"""

from __future__ import annotations

import json
import re
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from kanna import encodings, families
from kanna._util.atomic import write_json
from kanna._util.progress import Progress, Silent
from kanna.evaluation import reference_gguf
from kanna.evaluation.windows import cut, read_text
from kanna.optimization.kl_scorer import Judge
from kanna.optimization.measure import Measured
from kanna.optimization.rewrite import rewrite
from kanna.optimization.search import NAME
from kanna.plan import Plan, RuleModel
from kanna.runtimes.llamacpp import RUNTIME
from kanna.sources import Source

BITS = 4.6
"""Probes use the encoding nearest to this many bits."""
WINDOWS = 6
CONTEXT = 512
LIMITS = (0.2, 5.0)
SCRATCH = ".probe-"


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
    """Scale of the costs of each tensor.

    Kept in `out`, kind by kind, for the next run and the next budget.
    """
    kinds: dict[str, list[str]] = {}
    for name in measured.costs:
        kinds.setdefault(kind_of(name), []).append(name)
    found: dict[str, dict[str, float]] = {}
    with suppress(OSError, ValueError, KeyError):
        kept: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        if kept["key"] == measured.key:
            found = kept["kinds"]
    if missing := {kind: names for kind, names in kinds.items() if kind not in found}:
        _measure(source, measured, statistics, text, missing, found, out, threads, progress)
    low, high = LIMITS
    scale: dict[str, float] = {}
    for kind, names in kinds.items():
        ratio = max(found[kind]["measured"], 0.0) / max(found[kind]["predicted"], 1e-12)
        scale |= dict.fromkeys(names, min(max(ratio, low), high))
    return scale


def _measure(
    source: Source,
    measured: Measured,
    statistics: Path,
    text: Path,
    kinds: dict[str, list[str]],
    found: dict[str, dict[str, float]],
    out: Path,
    threads: int | None,
    progress: Progress,
) -> None:
    """Add the kinds to `found` and to the file `out`, one after the other."""
    model = families.load_model(source)
    with RUNTIME.open(reference_gguf(source, progress=progress), vocab_only=True) as engine:
        work = cut(engine, read_text(text)[0], context=CONTEXT, windows=WINDOWS, default=False)
    windows = [("held", ids) for ids in work.ids]
    with (
        tempfile.TemporaryDirectory(prefix=SCRATCH, dir=out.parent) as folder,
        Judge(source, windows, out.parent, threads) as judge,
    ):
        judge.read(progress)
        progress.start("probe", len(kinds) + 1, "kinds")
        floor, path = Path(folder) / "floor.gguf", Path(folder) / "kind.gguf"

        def divergence(rules: list[RuleModel], file: Path, before: Path | None) -> float:
            plan = Plan(name=NAME, encoding="f16", rules=rules)
            rewrite(
                source,
                model,
                plan,
                statistics,
                file,
                before=before,
                threads=threads,
                progress=Silent(),
            )
            return float(judge.kl(file, Silent()).mean())

        least = divergence([], floor, None)
        progress.advance(1, "16 bits")
        for kind, names in kinds.items():
            rules: list[RuleModel] = []
            predicted = 0.0
            for name in names:
                costs = measured.costs[name]
                encoding = min(costs, key=lambda e: abs(encodings.get(e).bits - BITS))
                predicted += costs[encoding]
                rules.append(
                    RuleModel(pattern=f"^{re.escape(name)}$", encoding=encoding, method="gptq")
                )
            found[kind] = {
                "predicted": predicted,
                "measured": divergence(rules, path, floor) - least,
            }
            write_json(out, {"key": measured.key, "kinds": found})
            progress.advance(1, kind)
        progress.finish()

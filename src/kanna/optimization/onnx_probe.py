"""Predictions held against onnxruntime: how much KL divergence each kind of node really costs.

Every kind is put into 4 bits alone, the rest into 8, and scored on held-out calibration text
against the float graph. What was measured over what was predicted scales the costs of that kind.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kanna._util.atomic import write_json
from kanna._util.progress import Progress
from kanna.evaluation.divergence import compare
from kanna.model import F32
from kanna.optimization.measure import Measured
from kanna.optimization.probe import LIMITS, kind_of
from kanna.plan import Plan, RuleModel

if TYPE_CHECKING:
    from kanna.optimization.onnx import Bench

LOW, HIGH = "nbits4g32", "nbits8g32"
WINDOWS, WINDOW = 8, 512
Judge = Callable[[Path], float]


def judge(bench: Bench, text: str, *, threads: int | None) -> Judge:
    """Mean KL divergence of a folder from the float graph, over the second half of windows of `text`."""
    import tokenizers

    from kanna.runtimes.onnx import RUNTIME

    tokenizer = tokenizers.Tokenizer.from_str(
        (bench.graph / "tokenizer.json").read_text(encoding="utf-8")
    )
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    length = min(WINDOW, int(bench.model.meta("{arch}.context_length") or WINDOW), len(ids))
    windows = [ids[i : i + length] for i in range(0, len(ids) - length + 1, length)][:WINDOWS]

    def read(folder: Path) -> list[F32]:
        with RUNTIME.open(folder, context=length, threads=threads) as engine:
            return [np.array(engine.logits(w, first=len(w) // 2)[:-1], np.float32) for w in windows]

    exact: list[F32] = []

    def score(folder: Path) -> float:
        if not exact:
            exact.extend(read(bench.graph))
        found: list[float] = []
        for w, wanted, made in zip(windows, exact, read(folder), strict=True):
            _, (one,) = compare(
                wanted, [made], np.array(w[len(w) // 2 + 1 :]), threads=threads or 1
            )
            found.append(float(one.kl.mean()))
        return float(np.mean(found))

    return score


def probe(
    costs: Measured,
    score: Judge,
    out: Path,
    *,
    write: Callable[[Plan, Path], None],
    progress: Progress,
) -> dict[str, float]:
    """Scale of the costs of each tensor.

    Kept in `out` for the next budget. write(plan, folder) makes a folder.
    """
    kinds: dict[str, list[str]] = {}
    for name, options in costs.costs.items():
        if LOW in options and HIGH in options:
            kinds.setdefault(_kind(name), []).append(name)
    kept: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        kept = json.loads(out.read_text(encoding="utf-8"))
    if kept.get("key") != costs.key:
        found: dict[str, dict[str, float]] = {}
        progress.start("probe", len(kinds) + 1, "kinds")
        with tempfile.TemporaryDirectory(prefix=".probe-", dir=out.parent) as scratch:

            def measured(low: list[str]) -> float:
                rules = [
                    RuleModel(pattern=f"^{n}$", encoding=LOW, method="gptq")
                    if n in low
                    else RuleModel(pattern=f"^{n}$", encoding=HIGH, method="nearest")
                    for n, options in costs.costs.items()
                    if LOW in options and HIGH in options
                ]
                folder = Path(scratch) / "probe"
                write(Plan(name="probe", encoding="f32", rules=rules), folder)
                return score(folder)

            floor = measured([])
            progress.advance(1)
            for kind, names in kinds.items():
                found[kind] = {
                    "predicted": sum(costs.costs[n][LOW] - costs.costs[n][HIGH] for n in names),
                    "measured": measured(names) - floor,
                }
                progress.advance(1, kind)
        progress.finish()
        kept = {"key": costs.key, "floor": floor, "kinds": found}
        write_json(out, kept)
    low, high = LIMITS
    scale: dict[str, float] = {}
    for kind, names in kinds.items():
        one: dict[str, float] = kept["kinds"][kind]
        ratio = max(one["measured"], 0.0) / max(one["predicted"], 1e-12)
        scale |= dict.fromkeys(names, min(max(ratio, low), high))
    return scale


def _kind(name: str) -> str:
    """q, k and v are one node, and so one kind."""
    kind = kind_of(name)
    return "attn_qkv" if kind in ("attn_q", "attn_k", "attn_v") else kind

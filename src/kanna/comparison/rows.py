"""What a comparison finds, and the pick."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any

from kanna import __version__
from kanna._util.units import format_size
from kanna.formats import DEFAULT

KNEE = 0.0025
"""Nats of KL divergence that one per cent of file size is worth.

Where the curve of a family of presets bends.
"""

RULE = (
    "among the artefacts that did not fail the gate, the knee of the size–quality curve: the "
    f"lowest ln(file size) + {0.01 / KNEE:g} × KL. In words: bytes are saved as long as one per "
    f"cent of the file costs less than {KNEE:g} nats of KL divergence, and no further."
)


RULE_ACROSS = (
    RULE + " Across formats, half a per cent of size is given for each per cent of peak memory "
    "saved and for each per cent of speed gained: ½ × ln(peak memory ÷ tokens per second) is added."
)


@dataclass(slots=True, kw_only=True)
class Row:
    """One artefact (role `baseline` or `candidate`) or the `floor`.

    None where nothing was measured.

    Attributes:
        speedup, less_memory: Against the baseline; top1 and less_memory are fractions of 1.
    """

    name: str
    role: str
    preset: str = ""
    format: str = DEFAULT
    path: str | None = None
    file: str | None = None
    file_bytes: int | None = None
    bits_per_weight: float | None = None
    nominal_bits: float | None = None
    precision_class: str = ""
    gate: str | None = None
    checks: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    kl_mean: float | None = None
    kl_mean_ci: Sequence[float] | None = None
    kl_median: float | None = None
    kl_p99: float | None = None
    kl_p999: float | None = None
    top1: float | None = None
    top1_ci: Sequence[float] | None = None
    perplexity: float | None = None
    perplexity_ci: Sequence[float] | None = None
    perplexity_ratio: float | None = None
    perplexity_ratio_ci: Sequence[float] | None = None
    load_s: float | None = None
    peak_bytes: int | None = None
    ttft_s: float | None = None
    prompt_tps: float | None = None
    gen_tps: float | None = None
    joules_per_token: float | None = None
    speedup: float | None = None
    less_memory: float | None = None
    reused: bool = False
    seconds: float | None = None
    command: str = ""
    substitutions: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    tensors: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    notes: list[str] = field(default_factory=list[str])


@dataclass(slots=True, kw_only=True)
class CompareResult:
    """Everything the report shows.

    `to_dict` is report.json. optimize: what `kanna optimize` adds, or {}.

    Attributes:
        pairs: Artefacts of different formats of nearly as many bytes, see `kanna.comparison.pairs`.
    """

    name: str
    source: dict[str, Any]
    rows: list[Row]
    recommended: dict[str, str]
    evaluation: dict[str, Any]
    environment: dict[str, str]
    command: str
    notes: list[str]
    report: str
    optimize: dict[str, Any] = field(default_factory=dict[str, Any])
    pairs: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    version: str = __version__
    date: str = field(default_factory=lambda: date.today().isoformat())

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return asdict(self)


def recommend(rows: Sequence[Row]) -> dict[str, str]:
    """The pick by RULE, why, and the rule in words."""
    able = [
        r
        for r in rows
        if r.role == "candidate" and r.gate != "failed" and r.kl_mean is not None and r.file_bytes
    ]
    if not able:
        return {
            "name": "",
            "why": "No artefact was both measured and free of failed checks.",
            "rule": RULE,
        }
    across = len({r.format for r in able}) > 1 and all(r.gen_tps and r.peak_bytes for r in able)
    pick = min(able, key=lambda r: _cost(r, across))
    reasons = [
        f"{format_size(pick.file_bytes or 0)} at a mean KL divergence of {pick.kl_mean:.4f} nats"
    ]
    if pick.top1 is not None:
        reasons.append(f"the same top token in {pick.top1:.1%} of positions")
    if pick.speedup and pick.less_memory is not None:
        memory = f"{abs(pick.less_memory):.0%} {'less' if pick.less_memory >= 0 else 'more'} memory"
        reasons.append(f"{pick.speedup:.1f} × as fast as the baseline with {memory}")
    why = ", ".join(reasons) + "."
    smaller = [r for r in able if (r.file_bytes or 0) < (pick.file_bytes or 0)]
    larger = [r for r in able if (r.file_bytes or 0) > (pick.file_bytes or 0)]
    if smaller:
        near = max(smaller, key=lambda r: r.file_bytes or 0)
        why += f" {_step(near, pick, 'smaller')}"
    if larger:
        near = min(larger, key=lambda r: r.file_bytes or 0)
        why += f" {_step(near, pick, 'larger')}"
    if pick.gate == "unprovable":
        why += " The gate could not be run here."
    return {"name": pick.name, "why": why, "rule": RULE_ACROSS if across else RULE}


def _cost(row: Row, across: bool) -> float:
    """What the rule minimizes."""
    cost = math.log(row.file_bytes or 1) + 0.01 / KNEE * (row.kl_mean or 0.0)
    return cost + 0.5 * math.log((row.peak_bytes or 1) / (row.gen_tps or 1)) if across else cost


def _step(other: Row, pick: Row, word: str) -> str:
    """What the neighbour in size would give."""
    size = abs(1 - (other.file_bytes or 0) / (pick.file_bytes or 1))
    return f"{other.name} is {size:.0%} {word} at {other.kl_mean:.4f} nats."

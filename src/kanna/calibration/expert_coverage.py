"""Which experts the calibration text reached: tokens of each, by layer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from kanna.calibration.statistics import Site

_LAYER = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCoverage:
    """The experts of one layer.

    Attributes:
        layer: Its number.
        tokens: Tokens that went to each expert.
        few: Experts of which the second moment of all says more than their own tokens do.
    """

    layer: int
    tokens: list[int]
    few: list[int]


def coverage(sites: Mapping[str, Site]) -> list[LayerCoverage]:
    """Every layer that has experts, in order."""
    tokens: dict[int, list[int]] = {}
    few: dict[int, set[int]] = {}
    for name, site in sites.items():
        match = _LAYER.match(name)
        if match is None or not site.experts:
            continue
        layer = int(match[1])
        tokens[layer] = site.experts
        starved = {e for e, n in enumerate(site.experts) if n < site.shared}
        few[layer] = few.get(layer, set()) | starved
    return [LayerCoverage(layer=n, tokens=tokens[n], few=sorted(few[n])) for n in sorted(tokens)]


def facts(layers: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The same as lines of a report: names and values; none without experts."""
    if not layers:
        return []
    each = [n for layer in layers for n in layer["tokens"]]
    lines = [
        (
            "Experts",
            f"{len(each):,} in {len(layers)} layers; tokens of one: {min(each):,} to "
            f"{max(each):,}, median {median(each):,.0f}",
        )
    ]
    if few := few_tokens(layers):
        lines.append(("Few tokens", few))
    return lines


def few_tokens(layers: list[dict[str, Any]]) -> str:
    """Which experts lean on what all of them read; "" where none does."""
    starved = [layer for layer in layers if layer["few"]]
    if not starved:
        return ""
    count = sum(len(layer["few"]) for layer in starved)
    total = sum(len(layer["tokens"]) for layer in layers)
    worst = max(starved, key=lambda layer: len(layer["few"]))
    names = ", ".join(f"{e} ({worst['tokens'][e]})" for e in worst["few"][:6])
    more = " …" if len(worst["few"]) > 6 else ""
    return (
        f"{count:,} of {total:,} experts saw too few tokens to be judged by them alone, and lean "
        f"on what all experts of their layer read; most in layer {worst['layer']}: {names}{more}"
    )

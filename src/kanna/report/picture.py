"""A plan as a coloured table.

A row is a layer, a column a kind of tensor, and the colour its bits per weight.
"""

from __future__ import annotations

import math
import re
from typing import Any

from kanna.escaping import html_text
from kanna.report.plot import colour

FEWEST, MOST = 1.5, 10.0


def pictures(plans: list[dict[str, Any]]) -> str:
    """Returns plans as tables side by side; each cell names its encoding too."""
    tables = "".join(_picture(plan) for plan in plans if plan["tensors"])
    return f'{_legend()}<div class="pictures">{tables}</div>' if tables else ""


def shade(bits: float) -> tuple[str, str]:
    """Returns the colours of a cell and of its letters: few bits are dark blue, many are yellow."""
    share = math.log(max(bits, FEWEST) / FEWEST) / math.log(MOST / FEWEST)
    back = colour(share)
    red, green, blue = (_linear(int(back[i : i + 2], 16) / 255) for i in (1, 3, 5))
    light = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    # Whichever has the larger contrast by WCAG: (1.05 / (L + .05)) or ((L + .05) / .05).
    return back, "#000" if (light + 0.05) ** 2 > 1.05 * 0.05 else "#fff"


def _linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def _picture(plan: dict[str, Any]) -> str:
    layers: dict[int, dict[str, dict[str, Any]]] = {}
    others: list[tuple[str, dict[str, Any]]] = []
    for tensor in plan["tensors"]:
        inside = re.match(r"blk\.(\d+)\.(.+?)(\.weight)?$", tensor["name"])
        if inside:
            layers.setdefault(int(inside[1]), {})[inside[2]] = tensor
        else:
            others.append((tensor["name"].removesuffix(".weight"), tensor))
    kinds = list(dict.fromkeys(kind for row in layers.values() for kind in row))
    chips = "".join(
        f'<span class="chip"{_style(t)}>{html_text(name)}: '
        f"{html_text(_short(t['encoding']))}</span>"
        for name, t in others
    )
    label = f"Encodings of {plan['name']}, by layer and kind of tensor"
    head = '<th scope="col" class="text">layer</th>' + "".join(
        f'<th scope="col">{html_text(k)}</th>' for k in kinds
    )
    body = "".join(
        f'<tr><th scope="row" class="text">{number}</th>'
        f"{''.join(_cell(row.get(k)) for k in kinds)}</tr>"
        for number, row in sorted(layers.items())
    )
    table = (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{html_text(label)}">'
        f'<table class="plan" aria-label="{html_text(label)}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
    name = html_text(plan["name"])
    return f"<section><h3>{name}</h3><p>{chips}</p>{table if layers else ''}</section>"


def _cell(tensor: dict[str, Any] | None) -> str:
    if tensor is None:
        return "<td>–</td>"
    tip = f"{tensor['name']}: {tensor['encoding']}, {tensor['bits']:g} bits per weight"
    return (
        f'<td{_style(tensor)} title="{html_text(tip)}">{html_text(_short(tensor["encoding"]))}</td>'
    )


def _short(encoding: str) -> str:
    """As a cell shows it: bits and group of the grouped kinds, without the type of their scales."""
    grouped = re.match(r"(?:affine|nbits)(\d+g\d+)", encoding)
    return grouped[1] if grouped else encoding.upper()


def _style(tensor: dict[str, Any]) -> str:
    back, ink = shade(tensor["bits"])
    return f' style="background:{back};color:{ink}"'


def _legend() -> str:
    steps = (2, 3, 4, 5, 6, 8, 16)
    chips = "".join(
        '<span class="chip"{}>{} bits</span>'.format(_style({"bits": b}), b) for b in steps
    )
    return f'<p class="legend">Bits per weight: {chips}</p>'

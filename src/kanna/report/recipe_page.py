"""The page of a recipe's run: what became of every step, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from kanna._util.units import format_size
from kanna.escaping import html_text
from kanna.report.page import POLICY
from kanna.report.style import CSS
from kanna.report.tables import small_table
from kanna.report.trials import trials

_BYTES = ("file_bytes", "peak_bytes", "memory_bytes", "budget", "bytes", "memory")
_SHARES = ("top1",)
_FIGURES = {
    "file_bytes": "file",
    "bits_per_weight": "bits",
    "grade": "closeness",
    "kl_mean": "mean KL",
    "top1": "same next token",
    "perplexity": "perplexity",
    "gen_tps": "tokens/s",
    "peak_bytes": "memory",
    "gate": "checks",
}
"""Columns of the table of figures, in order; the others follow as they are called."""


def recipe_page(manifest: Mapping[str, Any]) -> str:
    """Returns the report of a run as one self-contained page.

    Args:
        manifest: As `manifest.json` has it.
    """
    name = html_text(manifest["name"])
    about = f"<p>{html_text(manifest['about'])}</p>" if manifest["about"] else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="generator" content="kanna {html_text(manifest["version"])}">
<title>{name}: run of a recipe</title>
<style>{CSS}</style>
</head>
<body>
<header>
<h1>{name}</h1>
<p class="muted">{_subtitle(manifest)}</p>
{about}
</header>
<main>
{_outputs(manifest)}
{trials(manifest, _shown)}
<h2>Steps</h2>
{_steps(manifest)}
{_errors(manifest)}
<h2>Measured</h2>
{_figures(manifest)}
<h2>Inputs</h2>
{_inputs(manifest)}
<h2>Environment</h2>
{_pairs(manifest["environment"])}
{_pairs(manifest["variables"], "Variables")}
</main>
</body>
</html>
"""


def _subtitle(manifest: Mapping[str, Any]) -> str:
    states = [step["state"] for step in manifest["steps"]]
    counts = ", ".join(
        f"{states.count(state)} {state}" for state in dict.fromkeys(states) if states.count(state)
    )
    ended = "" if manifest["finished"] else " It did not end."
    started = html_text(manifest["started"])
    return f"{started}, {manifest['seconds']:.1f} s: {html_text(counts)}.{ended}"


def _outputs(manifest: Mapping[str, Any]) -> str:
    items = "".join(
        f"<li>{html_text(name)}: {_link(path)}</li>"
        for name, paths in manifest["outputs"].items()
        for path in paths
    )
    return f"<h2>Outputs</h2><ul>{items}</ul>" if items else ""


def _link(path: str) -> str:
    return f'<a href="{html_text(quote(path))}">{html_text(path)}</a>'


def _axes(step: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in step["axes"].items())


def _steps(manifest: Mapping[str, Any]) -> str:
    rows = [
        (
            step["step"],
            _axes(step),
            step["verb"],
            step["state"],
            f"{step['seconds']:.1f}" if step["seconds"] else "",
            step["why"],
        )
        for step in manifest["steps"]
    ]
    table = small_table("Every step", ("step", "of", "verb", "state", "seconds", "why"), rows)
    reports = [
        path
        for step in manifest["steps"]
        for path in step["outputs"].values()
        if PurePosixPath(path).suffix == ".html"
    ]
    links = "".join(f"<li>{_link(path)}</li>" for path in reports)
    return table + (f"<p>Reports of steps:</p><ul>{links}</ul>" if links else "")


def _errors(manifest: Mapping[str, Any]) -> str:
    shown = ""
    for step in manifest["steps"]:
        if step["error"]:
            error = step["error"]
            words = [f"{step['id']}: {error['found']}"]
            words += [f"Expected: {error['expected']}"] if error["expected"] else []
            words += [f"What to do: {error['todo']}"] if error["todo"] else []
            shown += f'<div class="note">{"<br>".join(map(html_text, words))}</div>'
    notes: dict[tuple[str, str], int] = {}
    for step in manifest["steps"]:
        for note in step["notes"]:
            notes[step["step"], note] = notes.get((step["step"], note), 0) + 1
    for (name, note), count in notes.items():
        often = f" ({count} times)" if count > 1 else ""
        shown += f'<p class="muted">{html_text(name)}{often}: {html_text(note)}</p>'
    return shown


def _figures(manifest: Mapping[str, Any]) -> str:
    measured = [
        step
        for step in manifest["steps"]
        if any(value is not None for value in step["figures"].values())
    ]
    if not measured:
        return "<p>Nothing.</p>"
    names = dict.fromkeys(
        [*_FIGURES, *(name for step in measured for name in step["figures"])], False
    )
    used = [name for name in names if any(s["figures"].get(name) is not None for s in measured)]
    heads = ["step", "of", *(_FIGURES.get(name, name) for name in used)]
    rows: list[Sequence[str]] = [
        [step["step"], _axes(step), *(_shown(name, step["figures"].get(name)) for name in used)]
        for step in measured
    ]
    return small_table("Figures of every step", heads, rows)


def _shown(name: str, value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        if name in _BYTES:
            return format_size(value)
        if name in _SHARES:
            return f"{value:.1%}"
        return f"{value:,}" if isinstance(value, int) else f"{value:.5g}"
    return str(value)


def _inputs(manifest: Mapping[str, Any]) -> str:
    rows = [
        (one["given"], format_size(sum(f["bytes"] for f in one["files"])), one["sha256"][:16])
        for one in manifest["inputs"]
    ]
    return (
        small_table("What was read", ("input", "size", "SHA-256"), rows) if rows else "<p>None.</p>"
    )


def _pairs(pairs: Mapping[str, Any], caption: str = "Environment") -> str:
    rows = [(name, str(value)) for name, value in pairs.items()]
    return small_table(caption, ("name", "value"), rows) if rows else ""

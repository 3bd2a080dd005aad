"""The top of the page: which file, how large, how close, how fast, and the command that runs it."""

from __future__ import annotations

from typing import Any

from kanna._util.units import format_size, with_range
from kanna.checks import gate_word
from kanna.closeness import agreement, grade
from kanna.escaping import html_text, shell_path

GATE_CLASS = {"intact": "ok", "failed": "bad"}
"""How the word of the checks looks; anything else is not known."""
GATE_MARK = {"intact": "✓ ", "failed": "✗ "}


def headline(data: dict[str, Any]) -> str:
    """Returns the recommendation as figures that are read in seconds."""
    pick = data["recommended"]
    row = next((r for r in data["rows"] if r["name"] == pick["name"]), None)
    if row is None:
        return _without_pick(data)
    tiles = "".join(
        _tile(*tile) for tile in (_size(data, row), _closeness(row), _speed(row), _checks(row))
    )
    parts = [
        '<section class="pick" aria-label="Recommended">',
        f'<p class="kicker">★ Recommended: {html_text(row["name"])}</p>',
        f'<p class="file">{html_text(row["file"] or row["name"])}</p>',
        f'<div class="tiles">{tiles}</div>',
        _to_copy("Run it", run_command(data, row)),
        _to_copy("The file", str(row["path"])) if row.get("path") else "",
        f"<p>{html_text(pick['why'])}</p>",
        "</section>",
    ]
    return "".join(parts)


def _without_pick(data: dict[str, Any]) -> str:
    pick, source = data["recommended"], data["source"]
    keep = pick.get("keep_source")
    head = f"Recommended: the source, {source['name']}" if keep else "No recommendation"
    size = source.get("bytes")
    tiles = _tile("Size", format_size(size), "of its weights") if keep and size else ""
    return (
        f'<section class="pick" aria-label="Recommended"><p class="kicker">{html_text(head)}</p>'
        + (f'<div class="tiles">{tiles}</div>' if tiles else "")
        + (_to_copy("Run it", _command(data, source["name"])) if keep else "")
        + f"<p>{html_text(_sentence(pick['why']))}</p></section>"
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _tile(title: str, value: str, more: str) -> str:
    """One figure; the last two are text."""
    return (
        f'<div class="tile"><span class="name">{html_text(title)}</span>'
        f'<span class="value">{html_text(value)}</span>'
        f'<span class="more">{html_text(more)}</span></div>'
        if value
        else ""
    )


def _size(data: dict[str, Any], row: dict[str, Any]) -> tuple[str, str, str]:
    base = next((r for r in data["rows"] if r["role"] == "baseline" and r["file_bytes"]), None)
    more = ""
    if base and row["file_bytes"] and base is not row:
        share = 1 - row["file_bytes"] / base["file_bytes"]
        more = f"{share:.0%} smaller than {base['name']}, 16 bits"
    return "Size", format_size(row["file_bytes"]) if row["file_bytes"] else "", more


def _closeness(row: dict[str, Any]) -> tuple[str, str, str]:
    known = grade(row["kl_mean"], row["top1"])
    if known is None:
        return "Closeness", "", ""
    kl = "" if row["kl_mean"] is None else f"mean KL {row['kl_mean']:.4f}"
    more = ", ".join(p for p in (agreement(row["top1"]), kl) if p)
    return "Closeness", known.name, f"{more}: {known.meaning}"


def _speed(row: dict[str, Any]) -> tuple[str, str, str]:
    if not row["gen_tps"]:
        return "Speed", "", ""
    spread = row.get("speed_spread") or {}
    around = spread.get("gen_tps")
    parts: list[str] = []
    if around and f"{around[0]:.0f}" != f"{around[1]:.0f}":
        parts.append(f"{around[0]:.0f} to {around[1]:.0f} by round")
    if row.get("speedup") and row["role"] != "baseline":
        ratio = with_range(row["speedup"], row.get("speedup_spread"), 1)
        parts.append(f"× {ratio} of the 16-bit file")
    return "Speed", f"{row['gen_tps']:.0f} tokens/s", ", ".join(parts) or "on this machine"


def _checks(row: dict[str, Any]) -> tuple[str, str, str]:
    word = gate_word(row["gate"])
    more = {
        "intact": "it holds what it should, and runs",
        "failed": "do not use it",
        "": "",
    }.get(word, "something that checks it is not installed")
    return "Checks", GATE_MARK.get(word, "") + word, more


def run_command(data: dict[str, Any], row: dict[str, Any]) -> str:
    """Returns the command that runs a file: a chat, where the model has a template for one."""
    return _command(data, str(row.get("path") or row["file"] or "model.gguf"))


def _command(data: dict[str, Any], model: str) -> str:
    if data["source"].get("chat_template"):
        return f"kanna chat {shell_path(model)}"
    return f'kanna generate {shell_path(model)} "Once upon a time"'


def _to_copy(title: str, text: str) -> str:
    """Text that one click selects as a whole: the page runs no script, and no button could copy."""
    return (
        f'<p class="copy"><span class="name">{html_text(title)}</span>'
        f'<code tabindex="0" title="A click selects all of it">{html_text(text)}</code></p>'
    )

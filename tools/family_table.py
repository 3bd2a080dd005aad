"""Write the tables of docs/families.md and docs/vision.md, and what families' pages refuse.

`python tools/family_table.py`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from kanna import families
from kanna._util import plugins
from kanna.conversion import openvino
from kanna.families import towers
from kanna.families._others import OTHERS
from kanna.formats.onnx import build as onnx
from kanna.formats.onnx import encoder

PAGE = Path(__file__).parent.parent / "docs" / "families.md"
PAGES = PAGE.parent / "families"
VISION = PAGE.parent / "vision.md"
START, END = "<!-- table of families -->\n", "<!-- end of the table -->\n"
OTHERS_START = "<!-- table of other models -->\n"
TOWERS_START = "<!-- table of towers -->\n"
REFUSALS: dict[str, Mapping[str, str]] = {
    "no ONNX": onnx.REFUSED,
    "no MLX": {},
    "no OpenVINO": openvino.REFUSED,
    "no calibration": {},  # of models that predict tokens, none
}


def table() -> str:
    """The table, a line for each family."""
    lines = [
        "| family | models | GGUF architecture | GGUF | ONNX | MLX | OpenVINO "
        "| calibrate, optimize |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in families.names():
        family = families.get(name)
        refused = refusals(name)
        marks = " | ".join("no" if what in refused else "yes" for what in REFUSALS)
        models = family.summary + (f". Also {', '.join(family.also)}" if family.also else "")
        lines.append(
            f"| [{name}](families/{name}.md) | {models} | `{family.arch}` | yes | {marks} |"
        )
    return "\n".join([*lines, ""])


def others() -> str:
    """The table of models that no family is for; what families took over since is left out."""
    taken = {cls for name in families.names() for cls in families.get(name).architectures}
    lines = ["| models | why | instead |", "|---|---|---|"]
    rows: dict[tuple[str, str], list[str]] = {}
    for other in OTHERS:
        if not taken & set(other.classes):
            reason = other.reason.replace(f"has it ({other.llama_arch})", "has it")
            rows.setdefault((reason, other.instead), []).append(other.title)
    lines += [f"| {', '.join(titles)} | {why} | {todo} |" for (why, todo), titles in rows.items()]
    return "\n".join([*lines, ""])


def tower_table() -> str:
    """The table of vision towers, a line for each."""
    lines = ["| tower | checkpoints | what it is |", "|---|---|---|"]
    for name in towers.names():
        tower = plugins.load("kanna.families.towers", name, "TOWER")
        classes = ", ".join(f"`{cls}`" for cls in tower.architectures)
        lines.append(f"| `{name}` | {classes} | {tower.summary} |")
    return "\n".join([*lines, ""])


def refusals(name: str) -> dict[str, str]:
    """What a family is not written as, and why."""
    family = families.get(name)
    if not family.encodes:
        return {what: refused[name] for what, refused in REFUSALS.items() if name in refused}
    exported = any(cls in encoder.ARCHITECTURES for cls in family.architectures)
    both = "both are of models that predict tokens"
    why = {} if exported else {"no ONNX": "its graph was not proved here yet"}
    return why | {"no MLX": both, "no OpenVINO": both, "no calibration": both}


def own_page(name: str, text: str) -> str:
    """The page of a family, whose last rows say what it is not written as, and why."""
    kept = [line for line in text.splitlines() if not line.startswith("| no ")]
    refused = [f"| {what} | {why} |" for what, why in refusals(name).items()]
    return "\n".join([*kept, *refused, ""])


def page(text: str) -> str:
    """The page of families with its tables as they are now."""
    return filled(text, {START: table, OTHERS_START: others})


def vision(text: str) -> str:
    """The page of pictures with its table as it is now."""
    return filled(text, {TOWERS_START: tower_table})


def filled(text: str, tables: dict[str, Callable[[], str]]) -> str:
    """A page with what stands between its marks made again."""
    for start, made in tables.items():
        before, _, rest = text.partition(start)
        after = rest.partition(END)[2]
        text = f"{before}{start}{made()}{END}{after}"
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    VISION.write_text(vision(VISION.read_text(encoding="utf-8")), encoding="utf-8")
    for family_name in families.names():
        own = PAGES / f"{family_name}.md"
        own.write_text(own_page(family_name, own.read_text(encoding="utf-8")), encoding="utf-8")

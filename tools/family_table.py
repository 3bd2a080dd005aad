"""Write the table of docs/families.md from the code: `python tools/family_table.py`."""

from __future__ import annotations

from pathlib import Path

from kanna import families
from kanna.calibration import network as calibration
from kanna.formats.mlx import write as mlx
from kanna.formats.onnx import build as onnx

PAGE = Path(__file__).parent.parent / "docs" / "families.md"
START, END = "<!-- table of families -->\n", "<!-- end of the table -->\n"
REFUSALS = (onnx.REFUSED, mlx.REFUSED, calibration.REFUSED)


def table() -> str:
    """The table, a line for each family."""
    lines = [
        "| family | models | GGUF architecture | GGUF | ONNX | MLX | calibrate, optimize |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in families.names():
        family = families.get(name)
        marks = " | ".join("no" if family.arch in refused else "yes" for refused in REFUSALS)
        lines.append(
            f"| [{name}](families/{name}.md) | {family.summary} | `{family.arch}` | yes | {marks} |"
        )
    return "\n".join([*lines, ""])


def reasons(name: str) -> list[str]:
    """Why a family has no graph, no folder or no calibration."""
    arch = families.get(name).arch
    return [refused[arch] for refused in REFUSALS if arch in refused]


def page(text: str) -> str:
    """The page with the table as it is now."""
    before, _, rest = text.partition(START)
    after = rest.partition(END)[2]
    return f"{before}{START}{table()}{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

"""Write a report to disk."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from kanna import formats
from kanna._util.atomic import write_text
from kanna.escaping import json_text
from kanna.report.card import model_card
from kanna.report.page import html_page


def write(data: dict[str, Any], out: Path, name: str = "report") -> list[Path]:
    """Write report.html, report.json, a card beside each artefact and README.md for the folder.

    Each file is replaced as a whole.

    Args:
        data: `CompareResult.to_dict()`.
        out: The folder.
        name: Stem of both reports. README.md is only written for `report`; other reports of the
            same folder leave it alone.

    Returns:
        The paths of the files.
    """
    files = _page(data, out, name)
    if name == "report":
        files[out / "README.md"] = model_card(data)
    for row in data["rows"]:
        if row.get("path"):
            path = out / Path(row["path"]).name
            suffix = formats.get(row.get("format", formats.DEFAULT)).suffix
            files[path.with_name(path.name.removesuffix(suffix) + ".md")] = model_card(
                data, row["name"]
            )
    for path, text in files.items():
        write_text(path, text)
    return list(files)


def write_page(data: dict[str, Any], out: Path, name: str = "report") -> None:
    """Write the page and its JSON alone: of a comparison that goes on, without cards."""
    for path, text in _page(data, out, name).items():
        write_text(path, text)


def _page(data: dict[str, Any], out: Path, name: str) -> dict[Path, str]:
    """The texts of the page and of its JSON by path."""
    out.mkdir(parents=True, exist_ok=True)
    text = json_text(plain(data))
    return {out / f"{name}.json": text + "\n", out / f"{name}.html": html_page(data)}


def plain(value: Any) -> Any:
    """Returns the same value in JSON's own types; NaN and infinity become None."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "to_dict"):
        return plain(value.to_dict())
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return str(value)

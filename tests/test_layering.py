"""Imports point one way: a layer never imports from a layer to its right (ARCHITECTURE.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import kanna

ROOT = Path(kanna.__file__).parent

# Left to right as data flows. A module may import from its own layer and from those before it.
LAYERS: list[set[str]] = [
    {"errors"},
    {"_util", "checks", "model"},
    {"_native", "encodings"},
    {"methods"},
    {"plan"},
    {"formats"},
    {"sources"},
    {"tokenizer"},
    {"families"},
    {"hardware"},
    {"calibration", "provenance"},
    {"conversion", "sizing", "inspection"},
    {"runtimes"},
    {"evaluation", "benchmark", "generation"},
    {"verification", "verified_conversion", "diagnosis"},
    {"report"},
    {"comparison"},
    {"optimization"},
    {"packaging", "serving"},
    {"catalog"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MODULES = sorted(p for p in ROOT.rglob("*.py"))


def imports_at_top(path: Path) -> set[str]:
    """First component below `kanna` of every module-level import in a file."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("kanna"):
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("kanna.")}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    name = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if name in {"__init__", "__main__"}:
        return
    assert name in LEVEL, f"add {name!r} to LAYERS and to ARCHITECTURE.md"
    wrong = {other for other in imports_at_top(path) if LEVEL.get(other, 0) > LEVEL[name]}
    assert not wrong, f"{name} imports {wrong}, which come later"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_stay_readable(path: Path) -> None:
    num_lines = len(path.read_text(encoding="utf-8").splitlines())
    assert num_lines <= 600, f"{path.name} has {num_lines} lines: split it by idea"

"""Benchmarks, which no test runs, take what they import from where it is."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_benchmarks_import_what_kanna_has() -> None:
    lost: list[str] = []
    for path in sorted(BENCHMARKS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("kanna"):
                continue
            assert node.module is not None
            module = importlib.import_module(node.module)
            for name in (alias.name for alias in node.names):
                below = f"{node.module}.{name}"
                part = hasattr(module, "__path__") and importlib.util.find_spec(below) is not None
                if not hasattr(module, name) and not part:
                    lost.append(f"{path.relative_to(BENCHMARKS)}: {below}")
    assert not lost

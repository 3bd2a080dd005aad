"""Files of tests that take longest: they begin first, so that no worker is left with one."""

from __future__ import annotations

from pathlib import PurePath

import pytest

LONGEST = (
    "training/test_adapt.py",
    "hostile/test_telemetry.py",
    "encodings/test_golden.py",
    "training/test_drafts.py",
    "training/test_checkpoints.py",
    "optimization/spread/test_spread.py",
    "optimization/test_pipeline.py",
    "optimization/test_pipeline_resume.py",
    "serving/test_studio_page.py",
    "serving/test_studio.py",
    "comparison/test_compare.py",
    "formats/test_dummy_format.py",
    "evaluation/test_evaluate.py",
    "optimization/tuning/test_folder.py",
    "optimization/adapters/test_onnx.py",
    "optimization/adapters/test_mlx.py",
    "optimization/adapters/test_onnx_static.py",
    "hostile/test_killed.py",
)
"""Half a minute of a processor or more, below tests/; the others follow in their own order."""


def order(items: list[pytest.Item]) -> None:
    """Sort tests by the place of their file in `LONGEST`; pytest-xdist deals files out in turn."""
    rank = {name: place for place, name in enumerate(LONGEST)}

    def place(item: pytest.Item) -> int:
        parts = PurePath(item.nodeid.partition("::")[0]).parts
        return rank.get("/".join(parts[parts[:1] == ("tests",) :]), len(LONGEST))

    items.sort(key=place)

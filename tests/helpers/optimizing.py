"""What the tests of `optimize` share.

A tiny model, texts, and settings under which the same code takes less time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from helpers import tiny_models
from kanna.cli.main import cli
from kanna.optimization import kl_scorer, measure
from kanna.optimization.tuning import training


@contextmanager
def quick() -> Iterator[pytest.MonkeyPatch]:
    """Short windows and few rows."""
    from kanna.calibration import shrinkage, windows

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "WINDOW", 128)
        patch.setattr(shrinkage, "ROWS", 4)
        patch.setattr(measure, "ROWS", 16)
        patch.setattr(measure, "HEAD_ROWS", 32)
        yield patch


@contextmanager
def learning(cache: Path) -> Iterator[pytest.MonkeyPatch]:
    """The same, on one thread, with windows enough to decide on and two epochs."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with quick() as patch:
            patch.setenv("KANNA_CACHE", str(cache))
            patch.setattr(kl_scorer, "EACH", 5)
            patch.setattr(training, "EPOCHS", 2)
            yield patch
    finally:
        torch.set_num_threads(threads)


def fill(home: Path) -> Path:
    """Put a tiny model into `home`, a text to calibrate on, and another to evaluate on."""
    tiny_models.make("llama", home / "tiny")
    (home / "text.txt").write_text(tiny_models.TEXT * 60, encoding="utf-8")
    words = tiny_models.TEXT.split()
    order = np.random.default_rng(0).permutation(len(words) * 30) % len(words)
    (home / "other.txt").write_text(" ".join(words[i] for i in order), encoding="utf-8")
    return home


@contextmanager
def folder_home(home: Path) -> Iterator[Path]:
    """`home` with a tiny model that no builder takes for something else, under quick settings."""
    with quick() as patch:
        patch.setitem(tiny_models.SMALL, "intermediate_size", 640)
        patch.setitem(tiny_models.SMALL, "num_hidden_layers", 2)
        yield fill(home)


def invoke(home: Path, *words: str, text: str = "other.txt", out: str = "out") -> Any:
    """Run `kanna optimize` on the model of `home`."""
    usual = [
        "--calibration",
        str(home / "text.txt"),
        "--tokens",
        "1024",
        "--text",
        str(home / text),
    ]
    usual += ["--windows", "2", "--threads", "1", "--json", "--quiet"]
    command = ["optimize", str(home / "tiny"), "-o", str(home / out), *usual, *words]
    # References of tiny models must not fill the user's cache.
    return CliRunner().invoke(cli, command, env={"KANNA_CACHE": str(home / "cache")})


def reported(found: dict[str, Any], format: str, out: Path) -> None:
    """The report of an optimized folder.

    Page, figures, curve, picture of the plan and command, in files of its own.
    """
    page = Path(found["report"])
    assert page == out / f"report-{format}.html" and "<svg" in page.read_text()
    told = json.loads(page.with_suffix(".json").read_text())
    assert {r["name"] for r in told["rows"]} == {"optimized", found["rival"]}
    best = next(r for r in told["rows"] if r["name"] == told["recommended"]["name"])
    assert (best["kl_mean"], best["gate"], best["file_bytes"]) == (
        found["kl_mean"],
        "proved",
        found["file_bytes"],
    )
    curve = told["optimize"]["curve"]
    assert len(curve["planned"]) > 3 and found["rival"] in {p["name"] for p in curve["presets"]}
    assert {p["name"] for p in told["optimize"]["pictures"]} == {r["name"] for r in told["rows"]}
    assert f"--format {format}" in told["command"]
    assert not (out / "report.html").exists() and (out / f"plan-{format}.json").exists()

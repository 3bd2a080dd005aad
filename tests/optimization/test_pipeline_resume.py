"""Optimize, interrupted once in every stage it has.

Nothing is lost, and the result is what the plan says.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import needs

import kanna
from kanna.calibration import statistics

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
needs.llama_cpp()

from helpers import tiny_models  # noqa: E402 - needs torch
from helpers.same_bytes import differences  # noqa: E402 - needs torch

from kanna.optimization import STAGES, measure  # noqa: E402 - needs torch


class OnceEach:
    """Progress that interrupts every stage the first time it gets anywhere."""

    def __init__(self) -> None:
        self.stage, self.seen = "", list[str]()

    def start(self, stage: str, total: int | None, unit: str = "bytes") -> None:
        self.stage = stage

    def advance(self, amount: int, detail: str = "") -> None:
        if self.stage not in self.seen:
            self.seen.append(self.stage)
            raise KeyboardInterrupt

    def finish(self) -> None:
        pass


def test_interrupted_in_every_stage(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "CANDIDATES", ("q4_0", "q8_0", "f16"))
    monkeypatch.setattr(measure, "ROWS", 8)
    monkeypatch.setattr(measure, "HEAD_ROWS", 8)
    monkeypatch.setenv("KANNA_CACHE", str(tmp_path / "cache"))
    tiny_models.make("llama", tmp_path / "tiny")
    text = tmp_path / "text.txt"
    text.write_text(tiny_models.TEXT * 60, encoding="utf-8")
    bar, out = OnceEach(), tmp_path / "out"
    found = None
    while found is None:
        assert len(bar.seen) < 30, bar.seen
        before = len(bar.seen)
        try:
            found = kanna.optimize(
                tmp_path / "tiny",
                out,
                bpw=6,
                calibration=[text],
                tokens=1024,
                effort="fast",
                time_budget="100h",
                text=text,
                windows=1,
                threads=1,
                progress=bar,
            )
        except KeyboardInterrupt:
            assert len(bar.seen) == before + 1
    assert {"calibrate", "gradients", "measure"} <= set(bar.seen) and len(bar.seen) >= 6, bar.seen
    assert found.gate == "proved" and found.kl_mean is not None
    assert found.time_budget is not None and found.time_budget["tokens"] == 1024, "it was named"
    taken = {row["stage"]: row["seconds"] for row in found.times}
    assert [*taken] == [*STAGES] and taken["report"] > 0 and taken["tuning"] is None
    assert not list(out.rglob("*.partial")) and not list(out.glob(".judge-*"))
    # What the stages left is whole: the plan gives these bytes again, calibration those statistics.
    kanna.convert(
        tmp_path / "tiny",
        tmp_path / "a.gguf",
        plan=found.plan,
        statistics=found.statistics,
        threads=1,
    )
    assert differences(tmp_path / "a.gguf", out / "tiny-optimized.gguf") == []
    kanna.calibrate(tmp_path / "tiny", tmp_path / "stats", calibration=[text], tokens=1024)
    assert statistics.read(tmp_path / "stats").sha256 == statistics.read(found.statistics).sha256
    for path in (tmp_path / "stats").iterdir():
        assert differences(path, out / "statistics" / path.name) == []

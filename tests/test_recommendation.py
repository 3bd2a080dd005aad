"""One voice: `fit`, `convert`, `compare` and `optimize` never say two things of one source."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from kanna import convert, fit, formats
from kanna.comparison.formats import choices
from kanna.comparison.planning import plan_rows
from kanna.comparison.rows import Row, recommend
from kanna.comparison.rows import measured as figures
from kanna.conversion import ConvertResult
from kanna.recommendation import (
    Candidate,
    SourceFacts,
    closest,
    knee,
    objection,
    side_bytes,
    source_facts,
)
from kanna.recommendation import recommend as pick_by
from kanna.sizing import FitResult, closeness
from kanna.sizing.closeness import MeasuredCloseness, remember
from kanna.sources import open_source

FAMILIES = ("llama", "qwen2", "gemma3")
DTYPES = ("float32", "float16")
QUANTIZED = ("Q8_0", "Q4_1", "Q4_K_M", "F16", "mlx:q4")
NAMES = [f"{family}-{kind}" for family in FAMILIES for kind in (*DTYPES, *QUANTIZED)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models of several families: in float32 and float16, and quantized once already."""
    pytest.importorskip("transformers")
    from helpers import tiny_models

    home = tmp_path_factory.mktemp("sources")
    for family in FAMILIES:
        whole = home / f"{family}-float32"
        tiny_models.make(family, whole)
        half = home / f"{family}-float16"
        half.mkdir()
        for file in whole.iterdir():
            if file.suffix != ".safetensors":
                (half / file.name).write_bytes(file.read_bytes())
        tensors = load_file(whole / "model.safetensors")
        save_file({k: v.astype(np.float16) for k, v in tensors.items()}, half / "model.safetensors")
        for preset in QUANTIZED:
            convert(whole, home / f"{family}-{preset}", preset=preset, threads=1)
    return home


@cache
def sized(path: Path, preset: str) -> ConvertResult:
    return convert(path, preset=preset, dry_run=True)


@cache
def planned(path: Path, format: str) -> list[Row]:
    """Rows of a comparison, of as many bytes as when written: with the tokenizer of folders."""
    source = open_source(path)
    rows = plan_rows(source, choices([format], None), path.parent / "out", None).rows
    sides = 0 if formats.get(format).suffix else side_bytes(source)
    return [replace(row, file_bytes=(row.file_bytes or 0) + sides) for row in rows]


@cache
def fitted(path: Path, format: str, memory: int | None) -> FitResult:
    return fit(path, format=format, memory=memory)


def measured(rows: Sequence[Row], kls: Sequence[float]) -> list[Row]:
    """Rows as they are when compare has measured them."""
    return [
        replace(row, gate="proved", kl_mean=kl, top1=max(0.0, 1 - kl))
        for row, kl in zip(rows, sorted(kls)[: len(rows)], strict=True)
    ]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    name=st.sampled_from(NAMES),
    format=st.sampled_from(("gguf", "mlx")),
    memory=st.one_of(st.none(), st.integers(1 << 20, 1 << 27)),
    kls=st.lists(st.floats(1e-4, 2.0), min_size=8, max_size=8),
)
def test_no_two_verdicts(
    folder: Path, name: str, format: str, memory: int | None, kls: list[float]
) -> None:
    path = folder / name
    source = open_source(path)
    facts = source_facts(source, [format])
    advised = fitted(path, format, memory)
    rows = {row.preset: row for row in advised.rows}
    if advised.recommended:
        row = rows[advised.recommended]
        made = sized(path, row.preset)
        assert row.fits and not advised.keep_source
        assert row.file_bytes < facts.file_bytes
        assert made.advice is None, "convert advises against what fit recommends"

    done = measured(planned(path, format), kls)
    compared = recommend(done, facts)
    remember(source, format, figures(done, format))
    here = fit(path, format=format)
    assert (compared["name"] or None, compared["keep_source"]) == (
        here.recommended,
        here.keep_source,
    )
    if compared["name"]:
        assert rows[compared["name"]].file_bytes < facts.file_bytes
        assert sized(path, compared["name"]).advice is None
    if here.keep_source:
        assert "keep the source" in here.advice and compared["name"] == ""
        assert all(sized(path, preset).advice for preset in rows)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("format", ["gguf", "mlx"])
def test_before_anything_is_measured_the_rule_is_the_same(
    folder: Path, name: str, format: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where a comparison measures what the bits promised, it picks what `fit` recommended."""
    monkeypatch.setattr(closeness, "FOLDER", str(tmp_path))
    path, advised = folder / name, fit(folder / name, format=format)
    expected = {row.preset: row.expected_kl for row in advised.rows}
    rows = [
        replace(row, gate="proved", kl_mean=expected[row.name]) for row in planned(path, format)
    ]
    compared = recommend(rows, source_facts(open_source(path), [format]))
    assert compared["keep_source"] == advised.keep_source
    assert compared["name"] in (advised.recommended, "")


def test_fit_and_demo_star_the_same_preset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the figures that the demo measures: Q6_K, as its bits promise."""
    monkeypatch.setattr(closeness, "FOLDER", str(tmp_path))
    advised = fit("builtin:stories15m")
    figures = {"Q8_0": 0.0008, "Q6_K": 0.0051, "Q4_K_M": 0.0391, "Q3_K_M": 0.109, "Q2_K": 0.407}
    sizes = {row.preset: row.file_bytes for row in advised.rows}
    files = [Candidate(name=n, file_bytes=sizes[n], kl_mean=kl) for n, kl in figures.items()]
    assert knee(files)[0].name == advised.recommended == "Q6_K"


def test_what_was_measured_of_other_bytes_does_not_count(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closeness, "FOLDER", str(tmp_path / "figures"))
    path = tmp_path / "model"
    shutil.copytree(folder / "llama-float16", path)
    remember(
        open_source(path), "gguf", {n: MeasuredCloseness(kl_mean=0.001) for n in ("Q2_K", "Q8_0")}
    )
    assert fit(path).recommended == "Q2_K" and "0.0010 nats" in fit(path).advice
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes())
    assert fit(path).recommended == fit(folder / "llama-float16").recommended != "Q2_K"


def test_a_written_file_is_advised_against_as_it_was_before(folder: Path, tmp_path: Path) -> None:
    for name in ("llama-Q4_1", "qwen2-Q8_0"):
        before = convert(folder / name, preset="Q8_0", dry_run=True)
        after = convert(folder / name, tmp_path / f"{name}.gguf", preset="Q8_0", threads=1)
        assert before.advice and before.advice == after.advice
        assert after.advice in after.notes and after.advice in json.dumps(after.to_dict())


CANDIDATE = st.builds(
    Candidate,
    name=st.text("ABC", min_size=1, max_size=3),
    file_bytes=st.integers(1, 1000),
    bits_per_weight=st.one_of(st.none(), st.floats(1, 16)),
    special=st.booleans(),
    fits=st.booleans(),
    gate=st.sampled_from(("proved", "failed", "unprovable")),
    kl_mean=st.floats(0, 3),
    top1=st.floats(0, 1),
)


@given(
    candidates=st.lists(CANDIDATE, max_size=6, unique_by=lambda c: c.name),
    source=st.builds(
        SourceFacts,
        file_bytes=st.integers(1, 1000),
        quantized=st.booleans(),
        runs=st.booleans(),
        fits=st.booleans(),
    ),
)
def test_every_rule_obeys_what_speaks_against_a_file(
    candidates: list[Candidate], source: SourceFacts
) -> None:
    verdicts = [pick_by(candidates, source, rule) for rule in (knee, closest)]
    assert len({(v.keep_source, v.name is None) for v in verdicts}) == 1
    for verdict in verdicts:
        assert verdict.why and verdict.rule
        pick = next((c for c in candidates if c.name == verdict.name), None)
        if pick is not None:
            assert pick.file_bytes < source.file_bytes and pick.fits and pick.gate != "failed"
            assert objection(pick, source) is None and not source.stays


def across(speeds: tuple[float, float], ranges: tuple[tuple[float, float], ...]) -> list[Candidate]:
    return [
        Candidate(
            name=name,
            format=format,
            file_bytes=size,
            kl_mean=0.02,
            top1=0.95,
            gen_tps=speed,
            speed=around,
            peak_bytes=200,
        )
        for name, format, size, speed, around in zip(
            ("a", "b"), ("gguf", "onnx"), (80, 81), speeds, ranges, strict=True
        )
    ]


def test_noise_of_a_busy_machine_picks_nothing() -> None:
    clear, _, rule = knee(across((20, 40), ((19, 21), (38, 42))))
    assert clear.name == "b" and "tie" not in rule
    tied, _, rule = knee(across((20, 40), ((12, 44), (15, 45))))
    assert tied.name == "a" and "a, b the speed is a tie" in rule


def compared(name: str, size: int, kl: float, top1: float) -> Candidate:
    return Candidate(name=name, file_bytes=size, kl_mean=kl, top1=top1)


def test_a_poor_file_is_not_recommended_where_another_is_closer() -> None:
    fair, poor = compared("Q8_0", 220, 0.001, 0.85), compared("Q4_K_M", 120, 0.07, 0.42)
    pick, why, rule = knee([fair, poor])
    assert pick is fair and "fair" in why and "weak or poor" in rule
    pick, why, _ = knee([replace(poor, name="Q2_K", kl_mean=0.6), replace(poor, file_bytes=130)])
    assert pick.name == "Q4_K_M" and "None that was compared is close" in why


def test_a_search_within_a_budget_goes_by_the_same_rule() -> None:
    """A budget below the source is a reason to make a smaller file, one above it is none."""
    files = [
        Candidate(name="optimized", file_bytes=80, kl_mean=0.02, top1=0.95),
        Candidate(name="Q3_K_M", file_bytes=78, kl_mean=0.2, top1=0.8),
    ]
    quantized = SourceFacts(file_bytes=90, quantized=True, runs=True)
    below = pick_by(files, replace(quantized, fits=False), closest)
    assert below.name == "optimized" and not below.keep_source
    assert pick_by(files, quantized, closest).keep_source
    assert pick_by(files, SourceFacts(file_bytes=79), closest).name == "Q3_K_M"

"""Adapters merged into a GGUF: exact into floats, into quantized types only when asked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import needs, tiny_adapters
from helpers.closeness import divergence
from helpers.tiny_adapters import RECIPES

import kanna
from kanna.adapters import merged_source, open_adapters
from kanna.adapters.merged_folder import Merged
from kanna.cli.main import cli
from kanna.errors import UnsupportedError, UsageError
from kanna.merging import requantized

needs.package("peft")
needs.llama_cpp()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("merge-gguf")


def adapted(home: Path, name: str, preset: str) -> tuple[Path, Path, Any]:
    """A base in GGUF, an adapter, and PEFT's model of both."""
    recipe = RECIPES[name]
    source = tiny_adapters.base(recipe.family, home / recipe.family)
    model = tiny_adapters.make(source, home / name, **recipe.config)
    base = home / f"{recipe.family}-{preset}.gguf"
    if not base.exists():
        kanna.convert(source, base, preset=preset, threads=1)
    return base, home / name, model


@pytest.mark.parametrize("name", ["lora", "rslora", "fused"])
def test_a_file_of_floats_becomes_what_peft_computes(home: Path, name: str) -> None:
    base, adapter, model = adapted(home, name, "F16")
    out = home / f"{name}-merged.gguf"
    result = kanna.merge(base, adapter, out, threads=1)
    assert divergence(model, base) > 1e-3 and divergence(model, out) < 2e-5
    assert not [note for note in result.notes if "quantized" in note]
    before, after = (kanna.open_source(path).tensors for path in (base, out))
    assert {n: t.dtype for n, t in before.items()} == {n: t.dtype for n, t in after.items()}


def test_a_quantized_file_is_changed_only_when_asked_and_says_what_it_costs(home: Path) -> None:
    base, adapter, model = adapted(home, "lora", "Q4_K_M")
    out = home / "again.gguf"
    with pytest.raises(UsageError, match=r"adds an error of [\d.]+% of their values") as refused:
        kanna.merge(base, adapter, out, threads=1)
    assert not out.exists() and str(home / "llama") in str(refused.value.expected)
    words = ["merge", str(base), str(adapter), "-o", str(out), "--threads", "1"]
    assert CliRunner().invoke(cli, words).exit_code == 2
    result = kanna.merge(base, adapter, out, requantize=True, threads=1)
    assert divergence(model, out) < 0.5 * divergence(model, base)
    before, after = (kanna.open_source(path).tensors for path in (base, out))
    merged = merged_source(kanna.open_source(base), open_adapters(adapter)).tensors
    for name, tensor in before.items():
        count = tensor.shape[0] if len(tensor.shape) > 1 else 1
        assert after[name].dtype == tensor.dtype, name
        if not isinstance(merged[name], Merged):
            own, stored = (t.raw(0, count) for t in (tensor, after[name]))
            assert own is not None and stored is not None and np.array_equal(own, stored), name
    [note] = [note for note in result.notes if note.startswith("storing")]
    exact = {n: t for n, t in merged.items() if isinstance(t, Merged)}
    rows = {n: (t.rows(0, t.shape[0]), after[n].rows(0, t.shape[0])) for n, t in exact.items()}
    error = sum(np.square(b - a, dtype=np.float64).sum() for a, b in rows.values())
    values = sum(np.square(a, dtype=np.float64).sum() for a, _ in rows.values())
    told = re.search(r"error of ([\d.]+)% of their values", note)
    assert told and float(told[1]) / 100 == pytest.approx((error / values) ** 0.5, rel=0.2)
    assert "the base is already quantized" in " ".join(result.notes)
    assert result.advice is None  # to use the source in its place: it is another model


def test_what_rounds_nothing_needs_no_option(home: Path) -> None:
    base, adapter, model = adapted(home, "lora", "Q4_K_M")
    whole = home / "whole.gguf"
    kanna.merge(base, adapter, whole, preset="F16", threads=1)
    assert divergence(model, whole) < divergence(model, base)
    with pytest.raises(UsageError, match="is quantized"):
        kanna.merge(base, adapter, home / "no.gguf", preset="Q8_0", threads=1)


def test_more_than_plain_lora_is_for_the_folder(home: Path) -> None:
    for name in ("dora", "modules-to-save"):
        base, adapter, _ = adapted(home, name, "F16")
        with pytest.raises(UnsupportedError, match="is a GGUF") as refused:
            kanna.merge(base, adapter, home / "no.gguf")
        assert "--format safetensors -o base/" in str(refused.value.todo)
    assert not (home / "no.gguf").exists()


def test_no_cost_where_nothing_is_quantized(home: Path) -> None:
    base, adapter, _ = adapted(home, "lora", "F16")
    merged = merged_source(kanna.open_source(base), open_adapters(adapter))
    assert requantized.measure(merged, requantized.rounded_again(merged)) is None

"""The training of scales: one layer in memory, interrupted, damaged, without room."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kanna
from kanna import families
from kanna._util import mapped_file
from kanna._util.progress import Silent
from kanna.model import Model
from kanna.plan import Plan

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from helpers import optimizing, tiny_models  # noqa: E402 - needs torch

from kanna.optimization.tuning import needs  # noqa: E402 - needs torch
from kanna.optimization.tuning.student import Student  # noqa: E402 - needs torch
from kanna.optimization.tuning.training import EPOCHS, ScaleTraining  # noqa: E402 - needs torch

WINDOWS = np.random.default_rng(0).integers(3, 60, (5, 32)).astype(np.int32)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Model, Model]]:
    """A tiny model of four layers, and what a file of it in 4 bits holds."""
    home = tmp_path_factory.mktemp("training")
    with optimizing.learning(home / "cache") as patch:
        patch.setitem(tiny_models.SMALL, "num_hidden_layers", 4)
        tiny_models.make("llama", home / "tiny")
        kanna.convert(home / "tiny", home / "q.gguf", plan=Plan(encoding="q4_0"), threads=1)
        models = (families.load_model(kanna.open_source(home / n)) for n in ("tiny", "q.gguf"))
        yield tuple(models)  # type: ignore[misc]


def training(pair: tuple[Model, Model], folder: Path, key: str = "key") -> ScaleTraining:
    original, artefact = pair
    return ScaleTraining(
        Student(artefact, "cpu", folder), original, WINDOWS[:3], WINDOWS[3:], folder, key
    )


def learned(done: ScaleTraining) -> dict[str, Any]:
    values = done.student.values
    return {name: np.array(array) for name, array in (*values.scales(), *values.vectors())}


class _Interrupted(Silent):
    """Ends what runs after so many windows."""

    def __init__(self, windows: int) -> None:
        self._left = windows

    def advance(self, amount: int = 1) -> None:
        self._left -= amount
        if self._left < 0:
            raise KeyboardInterrupt


def test_it_gets_closer(pair: tuple[Model, Model], tmp_path: Path) -> None:
    done = training(pair, tmp_path)
    trained, watched = done.run(Silent())
    assert len(trained) == EPOCHS and len(watched) == EPOCHS + 1
    assert min(watched) < watched[0]
    assert done.parameters == sum(array.size for array in learned(done).values())


@pytest.mark.parametrize("windows", [1, 4, 6, 8, 9])
def test_it_goes_on_with_the_epoch_it_was_at(
    windows: int, pair: tuple[Model, Model], tmp_path: Path
) -> None:
    want = training(pair, tmp_path / "whole")
    curves = want.run(Silent())
    with pytest.raises(KeyboardInterrupt):
        training(pair, tmp_path / "parts").run(_Interrupted(windows))
    again = training(pair, tmp_path / "parts")
    assert len(again.trained) == (windows >= 7), "an epoch is three windows read, and two watched"
    assert again.run(Silent()) == curves
    both = learned(again), learned(want)
    assert both[0].keys() == both[1].keys()
    assert all(np.array_equal(both[0][name], both[1][name]) for name in both[0])


@pytest.mark.parametrize("what", ["another key", "a short file", "no file", "no JSON", "a list"])
def test_what_does_not_fit_is_not_used(
    what: str, pair: tuple[Model, Model], tmp_path: Path
) -> None:
    want = training(pair, tmp_path).run(Silent())
    state, file = tmp_path / "state.json", tmp_path / f"epoch-{EPOCHS}.f32"
    if what == "a short file":
        os.truncate(file, file.stat().st_size - 4)
    elif what == "no file":
        file.unlink()
    elif what != "another key":
        state.write_text("{" if what == "no JSON" else "[]", encoding="utf-8")
    again = training(pair, tmp_path, what if what == "another key" else "key")
    assert again.trained == again.watched == again.start == []
    assert again.run(Silent()) == want


def test_one_layer_is_in_memory_at_a_time(pair: tuple[Model, Model], tmp_path: Path) -> None:
    done = training(pair, tmp_path)
    network, alive, most = done.student.network, weakref.WeakSet[Any](), list[int]()
    gc.disable()  # nothing waits until references in circles are looked for
    inner = network._on_fill
    assert inner is not None

    def fill(module: Any, prefix: str) -> None:
        if prefix.startswith("model.layers."):
            alive.add(module.mlp.down_proj.weight)
            most.append(len(alive))
        inner(module, prefix)

    network._on_fill = fill
    try:
        done.run(Silent())
    finally:
        gc.enable()
    windows, layers = EPOCHS * 3, 4
    assert len(most) == layers * (2 * windows + EPOCHS + 1), "each way, and where it is watched"
    assert max(most) == 1


def test_memory_and_disk_are_looked_at_before(
    pair: tuple[Model, Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, artefact = pair
    assert needs.lacking(1, 1, tmp_path / "work") == ""
    short = needs.lacking(1 << 60, 1, tmp_path / "work")
    assert "memory" in short and "are free" in short
    short = needs.lacking(1, 1 << 60, tmp_path / "work")
    assert f"disk in {tmp_path}" in short
    # What the files of a training really take is what was asked for.
    done = training(pair, tmp_path / "real")
    done.run(Silent())
    files = sum(p.stat().st_size for p in (tmp_path / "real").glob("*.f32"))
    said = needs.disk_needed(artefact, WINDOWS.size, EPOCHS)
    assert said <= files < 1.1 * said + (64 << 10)
    monkeypatch.setattr(needs, "LOGITS", 1)
    assert needs.bytes_needed(artefact, 32) > needs._TORCH


def test_a_full_disk_is_said_before_a_page_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a mapped file all bytes are taken at once: a write to a page cannot fail any more."""
    with pytest.raises(OSError):
        mapped_file.zeros(tmp_path / "large.f32", (1 << 60,))
    array = mapped_file.zeros(tmp_path / "small.f32", (3, 5))
    assert (tmp_path / "small.f32").stat().st_size == 60 and not array.any()
    assert (tmp_path / "small.f32").stat().st_blocks > 0
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    array = mapped_file.zeros(tmp_path / "written.f32", (3, 5))
    assert array.shape == (3, 5) and not array.any()

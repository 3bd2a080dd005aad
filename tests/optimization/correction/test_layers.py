"""The pass over two networks: every matrix is better on what the finished artefact gives it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.calibrating import TOKENS, windows_of
from helpers.optimizing import quick

import kanna
from kanna import families
from kanna._util.progress import Silent
from kanna.calibration import statistics
from kanna.formats import safetensors
from kanna.model import U8
from kanna.plan import Plan, load
from kanna.plan.tuning import ROWS

pytest.importorskip("torch")
pytest.importorskip("transformers")

from helpers import tiny_models  # noqa: E402 - needs torch

from kanna.optimization.correction.layers import CorrectionPass  # noqa: E402 - needs torch


class _InterruptedError(Exception):
    pass


class _Breaks(Silent):
    def advance(self, amount: int, detail: str = "") -> None:
        if detail == "layer 0":
            raise _InterruptedError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Callable[[str], CorrectionPass]]:
    home = tmp_path_factory.mktemp("correction")
    text = home / "text.txt"
    text.write_text(tiny_models.TEXT * 60, encoding="utf-8")
    with quick():
        tiny_models.make("llama", home / "tiny")
        kanna.calibrate(home / "tiny", home / "stats", calibration=[text], tokens=TOKENS)
        Plan(name="four", encoding="q4_0").save(home / "plan.json")
        kanna.convert(
            home / "tiny", home / "plan.gguf", plan=home / "plan.json", statistics=home / "stats"
        )
        ids = windows_of(home / "tiny", text, TOKENS).ids[:4]

    def start(folder: str) -> CorrectionPass:
        model, artefact = (
            families.load_model(kanna.open_source(home / name)) for name in ("tiny", "plan.gguf")
        )
        stats = statistics.read(home / "stats")
        return CorrectionPass(
            model, artefact, stats, ids, home / folder, "key", device="cpu", threads=1
        )

    return home, start


@pytest.fixture(scope="module")
def rows(made: tuple[Path, Callable[[str], CorrectionPass]]) -> dict[str, U8]:
    return made[1]("work").run(Silent())


def test_hidden_states_come_closer(made: Any, rows: dict[str, U8]) -> None:
    home, start = made
    assert {name.split(".")[2] for name in rows} >= {"attn_q", "attn_output", "ffn_up", "ffn_down"}
    # The file holds the rows, byte for byte, and the same plan makes it again.
    safetensors.save(home / "c.safetensors", {name + ROWS: data for name, data in rows.items()})
    load(home / "plan.json").model_copy(update={"tuning": "c.safetensors"}).save(home / "c.json")
    kanna.convert(home / "tiny", home / "c.gguf", plan=home / "c.json", statistics=home / "stats")
    after = families.load_model(kanna.open_source(home / "c.gguf"))
    for name, data in rows.items():
        stored = after.tensors[name].raw(0, len(data))
        assert stored is not None and np.array_equal(stored, data)
    run = start("unused")
    was, now = (
        _distance(families.load_model(kanna.open_source(home / name)), run)
        for name in ("plan.gguf", "c.gguf")
    )
    assert now < was


def _distance(model: Any, run: CorrectionPass) -> float:
    """Mean square distance of the last hidden states from the original's."""
    import torch

    from kanna.calibration.network import Network

    ids, networks = run.ids, (Network(run.models[0], "cpu"), Network(model, "cpu"))
    last: list[Any] = []
    with torch.no_grad():
        for network in networks:
            states = list(network.embed(ids))
            for index in range(network.num_layers):
                with network.layer(index) as layer:
                    states = [layer(h, number) for number, h in enumerate(states)]
            last.append(torch.stack(states))
    return float((last[0] - last[1]).square().mean())


def test_an_interrupted_pass_goes_on(made: Any, rows: dict[str, U8]) -> None:
    _, start = made
    with pytest.raises(_InterruptedError):
        start("again").run(_Breaks())
    run = start("again")
    begun: list[int] = []
    layer = run._layer
    run._layer = lambda index, *states: begun.append(index) or layer(index, *states)  # type: ignore[method-assign]
    resumed = run.run(Silent())
    assert 0 not in begun and begun
    assert resumed.keys() == rows.keys()
    assert all(np.array_equal(resumed[name], rows[name]) for name in rows)

"""The pass over two networks: every matrix is better on what the finished artefact gives it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kanna
from kanna import families
from kanna._util.progress import Silent
from kanna.formats import safetensors
from kanna.model import U8
from kanna.plan import load
from kanna.plan.tuning import ROWS

pytest.importorskip("torch")
pytest.importorskip("transformers")


class _InterruptedError(Exception):
    pass


class _Breaks(Silent):
    def advance(self, amount: int, detail: str = "") -> None:
        if detail == "layer 0":
            raise _InterruptedError


@pytest.fixture(scope="module")
def rows(made: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, U8]:
    return made.start(tmp_path_factory.mktemp("pass")).run(Silent())


def test_hidden_states_come_closer(made: Any, rows: dict[str, U8], tmp_path: Path) -> None:
    home = made.home
    assert {name.split(".")[2] for name in rows} >= {"attn_q", "attn_output", "ffn_up", "ffn_down"}
    # The file holds the rows, byte for byte, and the same plan makes it again.
    safetensors.save(home / "c.safetensors", {name + ROWS: data for name, data in rows.items()})
    load(home / "plan.json").model_copy(update={"tuning": "c.safetensors"}).save(home / "c.json")
    kanna.convert(
        home / "tiny", home / "c.gguf", plan=home / "c.json", statistics=home / "stats", threads=1
    )
    after = families.load_model(kanna.open_source(home / "c.gguf"))
    for name, data in rows.items():
        stored = after.tensors[name].raw(0, len(data))
        assert stored is not None and np.array_equal(stored, data)
    run = made.start(tmp_path)
    was, now = (
        _distance(families.load_model(kanna.open_source(home / name)), run)
        for name in ("plan.gguf", "c.gguf")
    )
    assert now < was


def _distance(model: Any, run: Any) -> float:
    """Mean square distance of the last hidden states from the original's."""
    import torch

    from kanna.calibration.network import Network

    ids, networks = run.text.ids, (Network(run.models[0], "cpu"), Network(model, "cpu"))
    last: list[Any] = []
    with torch.no_grad():
        for network in networks:
            states = list(network.embed(ids))
            for index in range(network.num_layers):
                with network.layer(index) as layer:
                    states = [layer(h, number) for number, h in enumerate(states)]
            last.append(torch.stack(states))
    return float((last[0] - last[1]).square().mean())


def test_an_interrupted_pass_goes_on(made: Any, rows: dict[str, U8], tmp_path: Path) -> None:
    with pytest.raises(_InterruptedError):
        made.start(tmp_path).run(_Breaks())
    run = made.start(tmp_path)
    begun: list[int] = []
    layer = run._layer
    run._layer = lambda index, *states: begun.append(index) or layer(index, *states)  # type: ignore[method-assign]
    resumed = run.run(Silent())
    assert 0 not in begun and begun
    assert resumed.keys() == rows.keys()
    assert all(np.array_equal(resumed[name], rows[name]) for name in rows)

"""Codes of a layer learned by what it gives: closer on windows that were not learned from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from kanna import encodings
from kanna.model import F32
from kanna.optimization.correction import moving_codes, moving_targets, rounding
from kanna.optimization.correction.rounding import LayerRounding

torch = pytest.importorskip("torch")

NAMES: tuple[str, ...] = ("first", "second")
ROWS = 256
VECTORS = ("iq1_m", "iq2_xxs", "iq3_s")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Few large steps, and one thread."""
    monkeypatch.setattr(rounding, "STEPS", 40)
    monkeypatch.setattr(moving_codes, "RATE", 0.04)
    monkeypatch.setattr(moving_targets, "TARGET_RATE", 0.12)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _same(_view: Any, _name: str, rows: F32) -> F32:
    return rows


class _Layer:
    """Two matrices with a gate between them."""

    def __init__(self, matrices: list[F32]) -> None:
        self.weights = [torch.nn.Parameter(torch.from_numpy(m), False) for m in matrices]

    def __call__(self, states: Any, _number: int) -> Any:
        inner = torch.nn.functional.silu(states @ self.weights[0].T)
        return states + inner @ self.weights[1].T


def _made(
    encoding: str, learned: int, second: str | None = None
) -> tuple[LayerRounding, _Layer, dict[str, Any]]:
    random = np.random.default_rng(5)
    kinds = dict(zip(NAMES, map(encodings.get, (encoding, second or encoding)), strict=True))
    exact = {n: random.normal(0, 1 / 16, (ROWS, ROWS)).astype(np.float32) for n in NAMES}
    data = {n: kinds[n].encode(m, weights=np.ones(ROWS, np.float32)) for n, m in exact.items()}
    layer = _Layer([kinds[n].decode(rows, ROWS) for n, rows in data.items()])
    # Inputs of few directions: moved together, codes make up for one another.
    directions = random.standard_normal((16, ROWS)).astype(np.float32) / 4
    inputs = random.standard_normal((8, 64, 16)).astype(np.float32) @ directions
    given = torch.from_numpy(inputs)
    wanted = torch.stack([_Layer(list(exact.values()))(states, 0) for states in given])
    learning = LayerRounding(layer, given, wanted, learned=learned, ordered=_same)
    for (name, rows), weight in zip(data.items(), layer.weights, strict=True):
        learning.add(name, kinds[name], rows, exact[name], weight)
    return learning, layer, data


@pytest.mark.parametrize("encoding", ["q2_k", "iq4_xs", *VECTORS])
def test_the_layer_comes_closer_by_rows_that_the_file_holds(encoding: str) -> None:
    learning, layer, data = _made(encoding, 6)
    before = learning.error((6, 7))
    rows = learning.run()
    assert learning.error((6, 7)) < 0.95 * before
    kind = encodings.get(encoding)
    for name, weight in zip(NAMES, layer.weights, strict=True):
        assert rows[name].shape == data[name].shape and not np.array_equal(rows[name], data[name])
        assert np.array_equal(kind.decode(rows[name], ROWS), weight.numpy())


def test_what_does_not_help_where_it_was_not_learned_is_undone() -> None:
    learning, layer, data = _made("q3_k", 6)
    learning.wanted[:6] = torch.randn_like(learning.wanted[:6])
    assert learning.run() == {}
    kind = encodings.get("q3_k")
    for name, weight in zip(NAMES, layer.weights, strict=True):
        assert np.array_equal(kind.decode(data[name], ROWS), weight.numpy())


def test_vectors_that_do_not_help_cost_nothing_that_codes_gained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(moving_targets, "TARGET_RATE", -0.5)  # the wrong way
    learning, layer, data = _made("q2_k", 6, "iq3_s")
    before = learning.error((6, 7))
    rows = learning.run()
    assert set(rows) == {"first"} and learning.error((6, 7)) < before
    there = encodings.get("iq3_s").decode(data["second"], ROWS)
    assert np.array_equal(there, layer.weights[1].numpy())


def test_without_codes_or_judges_nothing_is_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    def learned(_learning: LayerRounding, _moving: Any) -> None:
        pytest.fail("something was learned")

    monkeypatch.setattr(LayerRounding, "_learn", learned)
    assert _made("q2_k", 8)[0].run() == {}
    assert _made("q6_k", 6)[0].run() == {}

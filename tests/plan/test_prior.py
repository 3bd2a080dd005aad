"""Importance guessed from weights.

What the formulas say, on every family, and never a byte that depends on the CPU.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import kanna
from kanna import _native, encodings, families, plan
from kanna.conversion import ConversionRequest, convert
from kanna.formats import gguf
from kanna.model import Model, num_rows
from kanna.plan.prior import prior_of
from kanna.sources import open_source

pytest.importorskip("torch")
pytest.importorskip("transformers")
from helpers import tiny_models  # noqa: E402


def values(model: Model, name: str) -> np.ndarray:
    tensor = model.tensors[name]
    return tensor.rows(0, num_rows(tensor)).astype(np.float64)


def scaled(x: np.ndarray) -> np.ndarray:
    return x / x.max()


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("prior") / "llama"
    tiny_models.make("llama", folder)
    return families.load_model(open_source(folder))


_AFTER = {"olmo2", "exaone4"}
"""Families whose norms come after what reads."""
_OTHER = {
    "falcon_h1",
    "gemma3n",
    "gemma4",
    "gpt_oss",
    "granitehybrid",
    "granitemoe",
    "lfm2",
    "lfm2moe",
    "llama4",
    "nemotron_h",
    "nemotron_h_moe",
    "phi2",
    "qwen2moe",
    "qwen35",
    "qwen35moe",
}
"""Families with matrices that no rule speaks of, beside those that it does."""
_SHARED = {"stablelm-parallel"}
"""Recipes whose feed-forward part reads behind the norm of attention."""
NORMED = [
    name
    for name, recipe in tiny_models.RECIPES.items()
    if recipe.family not in _AFTER | _OTHER and name not in _SHARED
]


@pytest.mark.parametrize("recipe", NORMED)
def test_every_matrix_behind_a_norm_has_a_guess(recipe: str, tmp_path: Path) -> None:
    tiny_models.make(recipe, tmp_path / "m")
    model = families.load_model(open_source(tmp_path / "m"))
    for entry in plan.resolve(model, preset="Q4_0").entries:
        if (
            entry.encoding.block == 1
            or entry.name == "token_embd.weight"
            and "output.weight" in model.tensors
        ):
            assert entry.prior is None
            continue
        assert entry.prior is not None, entry.name
        weights = entry.prior.weights()
        own = (entry.tensor.shape[0],) if "ffn_down_exps" in entry.name else ()
        assert weights.shape == (*own, entry.tensor.shape[-1])
        assert np.isfinite(weights).all() and weights.max() == 1 and weights.min() >= 0


def test_guesses_are_what_they_claim(llama: Model) -> None:
    gain = np.square(values(llama, "blk.1.attn_norm.weight")[0])
    found = prior_of(llama, "blk.1.attn_q.weight")
    assert found is not None and np.allclose(found.weights(), scaled(gain), rtol=1e-5)

    v = (
        np.square(values(llama, "blk.1.attn_v.weight")) @ gain
    )  # two key-value heads of 64, four heads
    behind = np.repeat(v.reshape(2, 1, 64), 2, axis=1).ravel()
    found = prior_of(llama, "blk.1.attn_output.weight")
    assert found is not None and np.allclose(found.weights(), scaled(behind), rtol=1e-4)

    gain = np.square(values(llama, "blk.1.ffn_norm.weight")[0])
    product = (np.square(values(llama, "blk.1.ffn_gate.weight")) @ gain) * (
        np.square(values(llama, "blk.1.ffn_up.weight")) @ gain
    )
    found = prior_of(llama, "blk.1.ffn_down.weight")
    assert found is not None and np.allclose(found.weights(), scaled(product), rtol=1e-4)


def test_each_expert_has_a_guess_of_its_own(tmp_path: Path) -> None:
    tiny_models.make("qwen3-moe", tmp_path / "m")
    model = families.load_model(open_source(tmp_path / "m"))
    gain = np.square(values(model, "blk.1.ffn_norm.weight")[0])
    gate, up = (values(model, f"blk.1.ffn_{k}_exps.weight") for k in ("gate", "up"))
    product = ((np.square(gate) @ gain) * (np.square(up) @ gain)).reshape(6, 96)
    name = "blk.1.ffn_down_exps.weight"
    found = prior_of(model, name)
    assert found is not None and np.allclose(found.weights(), scaled(product), rtol=1e-4)
    convert(tmp_path / "m", tmp_path / "m.gguf", ConversionRequest(encoding="q4_0"))
    made, q4_0 = gguf.read(tmp_path / "m.gguf").tensors[name], encodings.get("q4_0")
    for expert in range(6):
        at = (expert * 256, (expert + 1) * 256)
        expected = q4_0.encode(
            model.tensors[name].rows(*at),
            method="search",
            weights=found.weights()[expert],
            guessed=True,
        )
        np.testing.assert_array_equal(made.raw(*at), expected)


def test_measured_weights_take_the_place_of_guesses(llama: Model) -> None:
    weights = {"blk.0.attn_q.weight": np.ones(256, np.float32)}
    measured = plan.resolve(llama, preset="Q4_0", weights=weights).entries
    alone = plan.resolve(llama, preset="Q4_0").entries
    for entry, guessed in zip(measured, alone, strict=True):
        known = entry.name in weights
        assert (entry.prior is not None) == (guessed.prior is not None and not known), entry.name
    assert all(
        e.prior is None for e in plan.resolve(llama, preset="Q4_0", method="nearest").entries
    )


@pytest.mark.parametrize("columns", [16, 33, 256, 2048])
def test_row_powers_have_the_same_bits_everywhere(columns: int) -> None:
    rng = np.random.default_rng(columns)
    x, w = (
        rng.standard_normal((7, columns)).astype(np.float32),
        rng.random(columns).astype(np.float32),
    )
    used = _native.simd()
    found: set[bytes] = set()
    try:
        for isa in _native.simd_available():
            assert _native.set_simd(isa)
            out = np.empty(7, np.float32)
            _native.row_powers(x, w, out)
            found.add(out.tobytes())
            assert np.allclose(out, np.square(x, dtype=np.float64) @ w, rtol=1e-5)
    finally:
        _native.set_simd(used)
    assert len(found) == 1


def test_a_norm_that_is_not_numbers_changes_nothing_else(tmp_path: Path) -> None:
    """A broken norm is refused where it is written.

    The guess made from it does not spread NaN first.
    """
    from kanna.formats import gguf

    tiny_models.make("llama", tmp_path / "m")
    kanna.convert(tmp_path / "m", tmp_path / "m.gguf", encoding="f32")
    model = families.load_model(open_source(tmp_path / "m.gguf"))
    norm = gguf.read(tmp_path / "m.gguf").tensors["blk.0.attn_norm.weight"].rows(0, 1).copy()
    norm[0, 3] = np.nan

    class Broken:
        name, shape, dtype, nbytes = "blk.0.attn_norm.weight", (256,), "f32", 1024

        def rows(self, start: int, stop: int) -> np.ndarray:
            return norm

        def raw(self, start: int, stop: int) -> None:
            return None

    model.tensors["blk.0.attn_norm.weight"] = Broken()
    found = prior_of(model, "blk.0.attn_q.weight")
    assert found is not None
    assert found.weights()[3] == 0 and np.isfinite(found.weights()).all()

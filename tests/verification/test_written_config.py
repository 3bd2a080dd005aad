"""Rope and sizes of what is written are held against transformers' own model of the config."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import tiny_dense, tiny_models

import kanna
from kanna.conversion import Guidance
from kanna.conversion.base import WrittenArtefact
from kanna.conversion.mlx import MLXSizes
from kanna.errors import GateError
from kanna.families import get, load_model
from kanna.families._config import Config
from kanna.model import ValueType, array, f32, string, u32
from kanna.sources import open_source
from kanna.verification.written_config import begin, examine, readings
from kanna.verification.written_config.computation import (
    Computation,
    Layer,
    RotaryEmbedding,
    compare,
)
from kanna.verification.written_config.gguf import read as read_gguf

pytest.importorskip("torch")
pytest.importorskip("transformers")

SIZES = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "vocab_size": 512,
    "rms_norm_eps": 1e-5,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0 + 0.01 * i for i in range(24)],
    "long_factor": [1.0 + 0.3 * i for i in range(24)],
}
GEMMA = {"head_dim": 64, "query_pre_attn_scalar": 64, "sliding_window": 512}
GEMMA3 = GEMMA | {"model_type": "gemma3_text", "tie_word_embeddings": True}
CONFIGS: dict[str, dict[str, Any]] = {
    "default": {"model_type": "llama", "rope_theta": 5e5},
    "linear": {"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 4.0}},
    "llama3": {"model_type": "llama", "head_dim": 48, "rope_scaling": tiny_dense.LLAMA3_ROPE},
    "yarn": {"model_type": "qwen2", "rope_theta": 1e6, "rope_scaling": YARN},
    "yarn with a factor": {
        "model_type": "qwen3",
        "head_dim": 96,
        "rope_parameters": YARN | {"attention_factor": 1.0, "rope_theta": 1e6},
    },
    "windows": {"model_type": "mistral", "sliding_window": 64},
    "longrope, partial": {
        "model_type": "phi3",
        "partial_rotary_factor": 0.75,
        "original_max_position_embeddings": 1024,
        "rope_scaling": LONG,
        "pad_token_id": 0,
    },
    "two bases": GEMMA3 | {"rope_theta": 1e6, "rope_local_base_freq": 2e4},
    "linear beside windows": GEMMA3
    | {
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "layer_types": ["full_attention", "sliding_attention"] * 3,
    },
    "soft caps": GEMMA | {"model_type": "gemma2", "attn_logit_softcapping": 30.0},
}


def _written(values: Mapping[str, Any]) -> WrittenArtefact:
    """The keys and computed tensors that the family makes of a config."""
    kind = str(values["model_type"]).removesuffix("_text")
    family = get(kind)
    config = Config(values, family.defaults)
    shapes = {"token_embd.weight": (512, 256)}
    if not config.tied:
        shapes["output.weight"] = (512, 256)
    tensors: dict[str, Any] = {n: SimpleNamespace(shape=s) for n, s in shapes.items()}
    tensors |= {n: _Factors(v) for n, v in family.extra(config).items()}
    keys = {"general.architecture": string(family.arch), **family.metadata(config)}
    return WrittenArtefact(format="gguf", metadata=keys, tensors=tensors)


class _Factors:
    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values)

    def rows(self, _start: int, _stop: int) -> Any:
        return self.values.reshape(1, -1)


def _nothing(_: str) -> None:
    return None


def _answer(computation: Computation) -> Callable[..., Computation]:
    def answer(*_: object) -> Computation:
        return computation

    return answer


@pytest.fixture(scope="module")
def expected() -> Callable[[str], Computation]:
    """What transformers makes of a config, all in this process: it is loaded once."""
    from kanna.verification.written_config import library_worker

    def ask(name: str) -> Computation:
        reading = library_worker.read({**SIZES, **CONFIGS[name]})
        assert "failure" not in reading, reading
        return Computation.of_json(json.loads(json.dumps(reading)))

    return ask


@pytest.mark.parametrize("name", CONFIGS)
def test_what_families_write_is_what_transformers_computes(
    name: str, expected: Callable[[str], Computation]
) -> None:
    assert examine(expected(name), _written({**SIZES, **CONFIGS[name]})) == []


WRONG: list[tuple[str, str, Any, str]] = [
    ("default", "rope.freq_base", f32(1e4), "rotary"),
    ("default", "rope.dimension_count", u32(32), "values of a head rotate"),
    ("default", "attention.layer_norm_rms_epsilon", f32(1e-6), "epsilon"),
    ("default", "attention.head_count_kv", u32(4), "kv heads"),
    ("default", "context_length", u32(2048), "context length"),
    ("default", "block_count", u32(5), "layers"),
    ("linear", "rope.scaling.factor", f32(2.0), "rotary"),
    ("linear", "rope.scaling.type", string("none"), "rotary"),
    ("yarn", "rope.scaling.original_context_length", u32(4096), "rotary"),
    ("yarn", "rope.scaling.type", string("linear"), "rotary"),
    ("yarn with a factor", "rope.scaling.attn_factor", f32(1.0), "cosine and sine"),
    ("yarn with a factor", "attention.key_length", u32(64), "head size"),
    ("longrope, partial", "rope.dimension_count", u32(64), "values of a head rotate"),
    ("longrope, partial", "rope.scaling.attn_factor", f32(1.0), "cosine and sine"),
    ("two bases", "rope.freq_base_swa", f32(1e4), "rotary"),
    ("linear beside windows", "attention.sliding_window_pattern", None, "rotary"),
    ("soft caps", "attn_logit_softcapping", f32(50.0), "soft cap of attention"),
    ("soft caps", "final_logit_softcapping", f32(20.0), "soft cap of logits"),
]


@pytest.mark.parametrize(("name", "key", "value", "says"), WRONG)
def test_a_wrong_value_is_refused(
    name: str, key: str, value: Any, says: str, expected: Callable[[str], Computation]
) -> None:
    written = _written({**SIZES, **CONFIGS[name]})
    keys = dict(written.metadata)
    full = f"{keys['general.architecture'].value}.{key}"
    if value is None:
        value = array([True, False] * 3, ValueType.BOOL)
    assert full in keys and keys[full] != value
    with pytest.raises(GateError, match=says):
        examine(expected(name), replace(written, metadata=keys | {full: value}))


@pytest.mark.parametrize("name", ["llama3", "longrope, partial"])
def test_a_wrong_tensor_of_factors_is_refused(
    name: str, expected: Callable[[str], Computation]
) -> None:
    written = _written({**SIZES, **CONFIGS[name]})
    [*_, factors] = [n for n in written.tensors if n.startswith("rope_f") and "short" not in n]
    ones = _Factors(np.ones(24, np.float32))
    with pytest.raises(GateError, match="rotary"):
        examine(expected(name), replace(written, tensors={**written.tensors, factors: ones}))


def test_a_lost_head_and_another_vocabulary_are_refused(
    expected: Callable[[str], Computation],
) -> None:
    written = _written({**SIZES, **CONFIGS["default"]})
    tied = {n: t for n, t in written.tensors.items() if n != "output.weight"}
    with pytest.raises(GateError, match="output matrix"):
        examine(expected("default"), replace(written, tensors=tied))
    longer: dict[str, Any] = {"token_embd.weight": SimpleNamespace(shape=(600, 256))}
    with pytest.raises(GateError, match="rows of the embedding"):
        examine(expected("default"), replace(written, tensors={**written.tensors, **longer}))


def test_another_window_and_short_texts_are_notes() -> None:
    rope = RotaryEmbedding.of([1.0, 0.1], 1.0)
    layer = Layer(heads=1, kv_heads=1, head_size=4, rope=0, window=8)
    source = Computation(name="a", layers=[layer], ropes=[rope], context=64)
    assert not compare(source, source).wrong + compare(source, source).partial
    wide = replace(source, layers=[replace(layer, window=0)])
    assert "attends to 8 tokens" in compare(source, wide).partial[0]
    long = replace(source, ropes=[replace(rope, frequencies=[1.0, 0.2])])
    differences = compare(source, long)
    assert not differences.wrong and "first trained length" in differences.partial[0]


def test_what_cannot_be_compared_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {**SIZES, "model_type": "no-such-model"}
    source: Any = SimpleNamespace(kind="hf", files={}, config=config)
    monkeypatch.setattr(readings.importlib.util, "find_spec", _nothing)
    [note] = begin(source)(_written({**SIZES, **CONFIGS["default"]}))
    assert "torch and transformers are not installed" in note
    rope = read_gguf(_written({**SIZES, **CONFIGS["yarn"]})).ropes[0]
    assert math.isclose(rope.factor, 1 + 0.1 * math.log(4))
    other: Any = SimpleNamespace(kind="gguf")
    assert begin(other)(WrittenArtefact(format="gguf")) == []
    assert examine("", WrittenArtefact(format="of somebody else")) == []


@pytest.mark.parametrize("form", ["gguf", "mlx", "safetensors"])
def test_a_refused_conversion_leaves_nothing(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    out = out.with_suffix(".gguf") if form == "gguf" else out
    tiny_models.make("llama3", source)
    rope = RotaryEmbedding.of([1.0] * 32, 1.0)
    layer = Layer(heads=4, kv_heads=2, head_size=64, rope=0)
    other = Computation(name="another", layers=[layer] * 3, ropes=[rope])
    asked = {"mlx": "mlx.read_by", "safetensors": "safetensors.read_by_library"}
    if form in asked:  # first: a module imported while the next is patched would keep the patch
        monkeypatch.setattr(
            f"kanna.verification.written_config.{asked[form]}",
            _answer(replace(other, ropes=[RotaryEmbedding.of([1.0] * 16, 1.0)])),
        )
    monkeypatch.setattr(readings, "read_by_library", _answer(other))
    with pytest.raises(GateError, match="another model"):
        kanna.convert(source, out, encoding="f16", format=form, threads=1)
    left = [p for p in tmp_path.rglob("*") if source not in p.parents and p not in (source, out)]
    assert not left and not out.is_file()


@pytest.mark.parametrize("name", ["llama3", "gemma3-pattern", "phi4-mini"])
def test_mlx_lm_is_asked_what_it_computes(name: str, tmp_path: Path) -> None:
    pytest.importorskip("mlx_lm")
    from kanna.verification.written_config import library_worker, mlx_worker

    tiny_models.make(name, tmp_path / "source")
    config = json.loads((tmp_path / "source" / "config.json").read_text())

    source = open_source(tmp_path / "source")
    written = MLXSizes(source, load_model(source), Guidance()).config
    actual = Computation.of_json(mlx_worker.read(dict(written)))
    differences = compare(Computation.of_json(library_worker.read(config)), actual)
    assert not differences.wrong
    assert bool(differences.partial) == (name == "phi4-mini")


def test_mlx_lm_turns_what_exaone_does_where_some_layers_have_windows() -> None:
    """The kinds of layers, as a letter each; those without a window turn nothing."""
    pytest.importorskip("mlx_lm")
    from kanna.formats.mlx import layout
    from kanna.verification.written_config import library_worker, mlx_worker

    kinds = [*["sliding_attention"] * 3, "full_attention"] * 2
    config = {
        **SIZES,
        "model_type": "exaone4",
        "num_hidden_layers": 8,
        "layer_types": kinds,
        "sliding_window": 64,
        "rope_theta": 1e4,
        "tie_word_embeddings": False,
    }
    expected = Computation.of_json(library_worker.read(config))
    written = layout.of(config).config(config)
    assert written["sliding_window_pattern"] == "LLLGLLLG"
    actual = Computation.of_json(mlx_worker.read(written))
    differences = compare(expected, actual)
    assert [layer.window for layer in actual.layers] == [64, 64, 64, 0] * 2
    assert not differences.wrong + differences.partial
    still = {number for number, la in enumerate(actual.layers) if la.rope != actual.layers[0].rope}
    assert still == {3, 7}

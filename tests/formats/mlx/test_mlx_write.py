"""Folders written for mlx-lm, loaded and run by mlx-lm itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import tiny_models, tiny_recipe
from helpers.same_bytes import differences

from kanna import convert, encodings, families, runtimes
from kanna.conversion.mlx_halves import joined
from kanna.errors import KannaError, OutputError, PlanError, UnsupportedError, UsageError
from kanna.families.views import Computed
from kanna.formats import gguf
from kanna.formats.mlx import layout
from kanna.model import Model, num_rows
from kanna.plan import Plan, TensorPlan
from kanna.sources import open_source

mx = pytest.importorskip("mlx.core")
mlx_lm = pytest.importorskip("mlx_lm")
from mlx_lm.generate import generate_step  # noqa: E402
from mlx_lm.models.cache import make_prompt_cache  # noqa: E402

FAMILIES = (
    "llama",
    "llama-bias",
    "llama3",
    "llama-linear",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3",
    "phi3",
    "smollm3",
    "granite",
    "olmo2",
    "hunyuan",
    "ministral3",
    "phi2",
    "stablelm",
    "stablelm-parallel",
    "granite4",
    "ernie",
    "exaone4",
)
MIXED = (
    "gemma4",
    "gemma4-wide",
    "gemma4-moe",
    "gemma3n",
    "gpt-oss",
    "lfm2",
    "lfm2-moe",
    "llama4",
    "mixtral",
    "olmoe",
    "qwen2-moe",
    "qwen3-moe",
    "granite-moe",
    "falcon-h1",
    "nemotron-h",
    "nemotron-h-moe",
)
"""Families with experts, states or several kinds of layers, which mlx-lm stores in its own way."""
PERIODIC = {
    "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
    "num_hidden_layers": 4,
}
"""mlx-lm reads no layer_types of Qwen3.5."""
VARIANTS: dict[str, tuple[str, dict]] = {
    "qwen35-periodic": ("qwen35", PERIODIC),
    "qwen35-moe-periodic": ("qwen35-moe", PERIODIC),
    "granite-hybrid-one-group": ("granite-hybrid", {"mamba_n_groups": 1}),
    "granite-hybrid-moe-one-group": (
        "granite-hybrid-moe",
        {"mamba_n_groups": 1, "num_hidden_layers": 2, "layer_types": ["mamba", "attention"]},
    ),
    "exaone4-windows": (
        "exaone4",
        {
            "hidden_size": 64,
            "intermediate_size": 64,
            "num_hidden_layers": 64,
            "sliding_window": 32,
            "layer_types": [*["sliding_attention"] * 3, "full_attention"] * 16,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        },
    ),
}
"""Models of those families that mlx-lm and llama.cpp take: a recipe, and what differs from it."""


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("hf")
    tiny_models.make("llama", place)
    return place


def arrays(folder: Path) -> dict:
    found: dict = {}
    for path in folder.glob("*.safetensors"):
        found |= mx.load(str(path))
    return found


@pytest.mark.parametrize("name", [n for n in FAMILIES if n in tiny_models.RECIPES])
def test_every_family_loads_and_speaks_in_mlx_lm(name: str, tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    tiny_models.make(name, tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "mlx", format="mlx", encoding="affine8g32")
    model, tokenizer = mlx_lm.load(str(tmp_path / "mlx"))
    prompt = mx.array(tokenizer.encode("The quick brown fox jumps"))
    assert len([token for token, _ in generate_step(prompt, model, max_tokens=4)]) == 4
    ours = np.array(model(prompt[None])[0].astype(mx.float32))
    with runtimes.get("torch").open(tmp_path / "hf", context=64) as reference:
        theirs = reference.logits(prompt.tolist())
    assert np.abs(ours - theirs).max() < 0.06 * np.abs(theirs).max()
    assert_a_config_of_metadata_is_taken(families.load_model(open_source(tmp_path / "hf")))


def assert_a_config_of_metadata_is_taken(model: Model) -> None:
    """What is written of a GGUF, whose metadata is all there is of the config."""
    config = families.hf_config(model)
    config = layout.of(config).config(config)
    _, arguments = mlx_lm.utils._get_classes(config)
    arguments.from_dict(config)


def _composing(source: Path) -> None:
    """Give the tokenizer the normalizer of its class under mlx-lm's name of the model."""
    data = json.loads((source / "tokenizer.json").read_text())
    (source / "tokenizer.json").write_text(json.dumps(data | {"normalizer": {"type": "NFC"}}))


def _slow_where_deep(name: str) -> Any:
    return pytest.param(name, marks=pytest.mark.slow) if name == "exaone4-windows" else name


@pytest.mark.parametrize("name", [*MIXED, *map(_slow_where_deep, VARIANTS)])
def test_what_mlx_lm_stores_in_its_own_way(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In floats it is the model; packed it loads; both are read again as sources."""
    if name in VARIANTS:
        like, changes = VARIANTS[name]
        recipe = tiny_models.RECIPES[like]
        variant = replace(recipe, values=recipe.values | changes, next_tokens=False)
        monkeypatch.setitem(tiny_models.RECIPES, name, variant)
    source = tmp_path / "hf"
    source.mkdir()
    tiny_models.make(name, source)
    if name.startswith("qwen35"):
        _composing(source)
    ids = np.random.default_rng(1).integers(3, 400, 100).tolist()
    with runtimes.get("torch").open(source, context=128) as reference:
        theirs = reference.logits(ids)
    published = families.load_model(open_source(source))
    assert_a_config_of_metadata_is_taken(published)
    for encoding in ("f32", "affine8g32"):
        out = tmp_path / encoding
        result = convert(source, out, format="mlx", encoding=encoding)
        assert not result.notes
        model, _ = mlx_lm.load(str(out))
        # Without a cache, layers of Gemma 3n have nothing of others to read.
        cache = make_prompt_cache(model) if name == "gemma3n" else None
        ours = np.array(model(mx.array(ids)[None], cache=cache)[0].astype(mx.float32))
        apart = np.abs(ours - theirs)
        # Rounding sends a few tokens to other experts, and those differ by far.
        assert np.median(apart) < (0.1 if encoding != "f32" else 1e-5) * theirs.std()
        assert encoding != "f32" or apart.max() < 1e-4 * np.abs(theirs).max()
        read = families.load_model(open_source(out))
        assert {n: t.shape for n, t in read.tensors.items()} == {
            n: t.shape for n, t in published.tensors.items()
        }
        for tensor, own in zip(read.tensors.values(), published.tensors.values(), strict=True):
            rows = min(num_rows(own), 8)
            limit = 1e-6 if encoding == "f32" else 0.02
            values = own.rows(0, rows)
            assert np.abs(tensor.rows(0, rows) - values).max() <= limit * np.abs(values).max()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("granite-hybrid", "normalises all groups of a state together"),
        ("falcon-h1-norm", "normalises all groups of a state together"),
        ("granite-moe-shared", "no shared expert"),
    ],
)
def test_what_mlx_lm_computes_otherwise_is_refused_by_config(
    name: str, says: str, tmp_path: Path
) -> None:
    (tmp_path / "hf").mkdir()
    tiny_models.make(name, tmp_path / "hf")
    with pytest.raises(UnsupportedError, match=says):
        convert(tmp_path / "hf", tmp_path / "mlx", format="mlx", encoding="affine8g32")
    assert not (tmp_path / "mlx").exists()


def test_halves_of_one_matrix_have_one_encoding_and_no_more_bytes_than_planned() -> None:
    rows = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    names = ("a.gate.weight", "a.up.weight")
    encoded = [encodings.get(name) for name in ("affine6g32", "affine4g32")]
    entries = [
        TensorPlan(name=name, tensor=Computed(name, rows + i), encoding=encoding)
        for i, (name, encoding) in enumerate(zip(names, encoded, strict=True))
    ]
    (one,) = joined(entries, {"whole.weight": ("gate.weight", "up.weight")})
    assert (one.name, one.encoding.name) == ("a.whole.weight", "affine4g32")
    assert one.nbytes <= sum(entry.nbytes for entry in entries)
    assert np.array_equal(one.tensor.rows(0, 8), np.concatenate([rows, rows + 1]))


@pytest.mark.parametrize("kind", ["nemotron_h", "llama4_text"])
def test_a_shared_head_where_mlx_lm_has_one_of_its_own_is_refused(kind: str) -> None:
    config = {"model_type": kind, "tie_word_embeddings": True}
    assert "a head of its own" in layout.of(config).refuses(config)
    assert not layout.of(config).refuses({"model_type": kind})


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"model_type": "llama4_text", "num_experts_per_tok": 2}, "one expert alone"),
        ({"model_type": "llama4_text", "num_hidden_layers": 3}, "4 layers or more"),
        ({"model_type": "gemma3n_text", "tie_word_embeddings": False}, "in place of its head"),
    ],
)
def test_what_mlx_lm_has_in_its_code_is_refused_otherwise(config: dict, says: str) -> None:
    assert says in layout.of(config).refuses(config)


@pytest.mark.parametrize(
    ("preset", "options"),
    [
        ("q4", {}),
        ("q3", {"q_bits": 3}),
        ("mixed_3_6", {"quant_predicate": "mixed_3_6", "q_group_size": 64}),
    ],
)
def test_plain_rounding_writes_what_mlx_lm_writes(
    hf: Path, tmp_path: Path, preset: str, options: dict
) -> None:
    mlx_lm.convert(str(hf), str(tmp_path / "theirs"), quantize=True, **options)
    convert(hf, tmp_path / "ours", preset=f"mlx:{preset}", method="nearest")
    ours, theirs = arrays(tmp_path / "ours"), arrays(tmp_path / "theirs")
    assert set(ours) == set(theirs)
    for name, wanted in theirs.items():
        assert ours[name].dtype == wanted.dtype, name
        assert mx.array_equal(ours[name], wanted).item(), name
    configs = [json.loads((tmp_path / n / "config.json").read_text()) for n in ("ours", "theirs")]
    quantization = [c["quantization"] for c in configs]
    layers = {n.removesuffix(".scales") for n in theirs if n.endswith(".scales")}
    for layer in layers:
        found = [
            q.get(layer, {k: q[k] for k in ("group_size", "bits", "mode")}) for q in quantization
        ]
        assert found[0] == found[1], layer
    assert {k: configs[0].get(k) for k in configs[1] if "quant" not in k} == {
        k: v for k, v in configs[1].items() if "quant" not in k
    }


@pytest.mark.parametrize("mode", ["mxfp4", "mxfp8", "nvfp4"])
@pytest.mark.parametrize("method", ["nearest", "search"])
def test_float_modes_load_and_hold_what_mlx_lm_writes(
    hf: Path, tmp_path: Path, mode: str, method: str
) -> None:
    convert(hf, tmp_path / "ours", preset=f"mlx:{mode}", method=method)
    if method == "nearest":
        mlx_lm.convert(str(hf), str(tmp_path / "theirs"), quantize=True, q_mode=mode)
        ours, theirs = arrays(tmp_path / "ours"), arrays(tmp_path / "theirs")
        assert set(ours) == set(theirs)
        assert all(mx.array_equal(ours[name], theirs[name]).item() for name in theirs)
    model, tokenizer = mlx_lm.load(str(tmp_path / "ours"))
    prompt = mx.array(tokenizer.encode("The quick"))
    assert len([token for token, _ in generate_step(prompt, model, max_tokens=2)]) == 2
    stored = arrays(tmp_path / "ours")
    tensor = open_source(tmp_path / "ours").tensors["model.layers.0.mlp.up_proj.weight"]
    parts = [stored[f"model.layers.0.mlp.up_proj.{k}"] for k in ("weight", "scales")]
    wanted = mx.dequantize(*parts, mode=mode, dtype=mx.float32, stream=mx.cpu)
    assert np.array_equal(tensor.rows(0, 512), np.array(wanted))


def test_it_is_read_back_exactly_and_written_again_with_the_same_bytes(
    hf: Path, tmp_path: Path
) -> None:
    convert(hf, tmp_path / "one", preset="mlx:mixed", threads=1)
    again = convert(hf, tmp_path / "two", preset="mlx:mixed", threads=4)
    assert again.bits_per_weight < 7
    for file in ("model.safetensors", "config.json", "kanna.json"):
        assert differences(tmp_path / "one" / file, tmp_path / "two" / file) == []
    source = open_source(tmp_path / "one")
    quantized = {n: t for n, t in source.tensors.items() if t.dtype.startswith("affine")}
    assert {t.dtype for t in quantized.values()} == {"affine4g64_f32", "affine6g64_f32"}
    convert(tmp_path / "one", tmp_path / "three", format="mlx", encoding="affine6g64")
    three = open_source(tmp_path / "three").tensors
    for name, tensor in quantized.items():
        if tensor.dtype == "affine6g64_f32":
            assert np.array_equal(three[name].raw(0, 8), tensor.raw(0, 8))


def test_shards_have_an_index(hf: Path, tmp_path: Path) -> None:
    convert(hf, tmp_path / "mlx", preset="mlx:q4", split_max_size=400_000)
    shards = sorted(p.name for p in (tmp_path / "mlx").glob("*.safetensors"))
    index = json.loads((tmp_path / "mlx" / "model.safetensors.index.json").read_text())
    assert len(shards) > 2 and set(index["weight_map"].values()) == set(shards)
    assert set(index["weight_map"]) == set(arrays(tmp_path / "mlx"))
    assert mlx_lm.load(str(tmp_path / "mlx"))


def test_files_of_the_tokenizer_come_along(hf: Path, tmp_path: Path) -> None:
    convert(hf, tmp_path / "mlx", preset="mlx:q4")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert differences(tmp_path / "mlx" / name, hf / name) == []


@pytest.mark.parametrize("encoding", ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0"])
def test_blocks_of_gguf_stay_as_they_are_there_and_back(
    hf: Path, tmp_path: Path, encoding: str
) -> None:
    convert(hf, tmp_path / "model.gguf", encoding=encoding)
    convert(tmp_path / "model.gguf", tmp_path / "mlx", preset="mlx:exact")
    convert(tmp_path / "mlx", tmp_path / "back.gguf", encoding=encoding)
    before, after = (
        gguf.read(tmp_path / "model.gguf").tensors,
        gguf.read(tmp_path / "back.gguf").tensors,
    )
    source = open_source(tmp_path / "mlx").tensors
    assert np.array_equal(
        source["model.layers.1.mlp.down_proj.weight"].rows(0, 256),
        before["blk.1.ffn_down.weight"].rows(0, 256),
    )
    quantized = [n for n, t in before.items() if t.dtype == encoding]
    assert len(quantized) > 20
    for name in quantized:
        assert np.array_equal(before[name].raw(0, 64), after[name].raw(0, 64)), name
    mlx_lm.load(str(tmp_path / "mlx"))


def test_groups_of_mlx_become_blocks_of_gguf(hf: Path, tmp_path: Path) -> None:
    convert(hf, tmp_path / "mlx", format="mlx", encoding="affine4g64_f16")
    convert(tmp_path / "mlx", tmp_path / "model.gguf", encoding="q4_1")
    theirs = open_source(tmp_path / "mlx").tensors["model.layers.0.mlp.up_proj.weight"]
    ours = gguf.read(tmp_path / "model.gguf").tensors["blk.0.ffn_up.weight"]
    assert ours.dtype == "q4_1" and np.array_equal(ours.rows(0, 512), theirs.rows(0, 512))


def test_rows_that_no_group_divides_stay_floats_and_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hf").mkdir()
    odd = tiny_recipe.Recipe(
        "llama", "LlamaForCausalLM", "LlamaConfig", {"hidden_size": 224, "intermediate_size": 488}
    )
    monkeypatch.setitem(tiny_models.RECIPES, "odd", odd)
    tiny_models.make("odd", tmp_path / "hf")
    found = convert(tmp_path / "hf", tmp_path / "mlx", preset="mlx:q4")
    got = {s.name.split(".")[-2]: s.got for s in found.substitutions}
    assert got["down_proj"] == "f32" and got["up_proj"] == "affine4g32_f32"
    assert mlx_lm.load(str(tmp_path / "mlx"))


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"encoding": "affine7g64"}, UnsupportedError, "7 bits"),
        ({"encoding": "affine4g16"}, UnsupportedError, "groups of 16"),
        ({"encoding": "q4_k"}, UsageError, "Q4_K"),
        ({"preset": "mlx:q7"}, PlanError, "q7"),
        ({"preset": "mlx:exact"}, PlanError, "no quantized blocks"),
        ({"preset": "mlx:q4", "method": "gptq"}, UsageError, "statistics"),
        ({"preset": "mlx:q4", "format": "gguf"}, UsageError, "mlx"),
        ({"plan": Plan(preset="Q4_K_M"), "format": "mlx"}, PlanError, "Q4_K_M"),
    ],
)
def test_what_mlx_cannot_hold_is_refused(
    hf: Path, tmp_path: Path, options: dict, error: type, said: str
) -> None:
    with pytest.raises(error, match=said):
        convert(hf, tmp_path / "mlx", **{"format": "mlx", **options})
    assert not (tmp_path / "mlx").exists()


def test_a_folder_that_holds_something_is_left_alone(hf: Path, tmp_path: Path) -> None:
    (tmp_path / "mlx").mkdir()
    (tmp_path / "mlx" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError):
        convert(hf, tmp_path / "mlx", preset="mlx:q4")
    assert issubclass(OutputError, KannaError)

"""What families refuse or say before a weight is read, and what they leave out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.headers import tensors_of
from helpers.tiny_models import write_tokenizer

from kanna import families
from kanna.errors import KannaError, SourceError, UnsupportedError
from kanna.families._config import Config
from kanna.families._rope import llama3_factors, rope_of
from kanna.families.views import Computed, HeadRows
from kanna.formats import gguf
from kanna.formats.stored import HeaderTensor
from kanna.formats.views import Renamed, Shifted
from kanna.model import MetaValue, ValueType, num_rows, string
from kanna.plan import TensorPlan
from kanna.sources import open_source

SIZES = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
EXTRA = {
    "gemma2": {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 32},
    "gemma3": {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 32},
    "gemma3n": {
        "head_dim": 16,
        "num_kv_shared_layers": 0,
        "sliding_window": 32,
        "vocab_size_per_layer_input": 500,
    },
    "gemma4": {
        "head_dim": 16,
        "global_head_dim": 32,
        "sliding_window": 32,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "exaone4": {"sliding_window": None, "layer_types": ["full_attention"] * 2},
    "gpt_oss": {"head_dim": 16},
    "granite4": {"layer_types": ["attention"] * 2, "position_embedding_type": "rope"},
    "granitehybrid": {"layer_types": ["mamba", "attention"], "mamba_n_heads": 4}
    | {"mamba_d_head": 32, "num_local_experts": 4},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2moe": {"num_dense_layers": 1, "num_experts": 4},
    "nemotron_h": {"layers_block_type": ["linear_attention", "mlp"]},
    "nemotron_h_moe": {"layers_block_type": ["linear_attention", "moe"]},
    "llama4": {
        "head_dim": 16,
        "intermediate_size_mlp": 128,
        "num_local_experts": 4,
        "interleave_moe_layer_step": 2,
    },
    "olmoe": {"num_key_value_heads": 4},
    "gemma_embedding": {
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "sliding_window": 32,
        "use_bidirectional_attention": True,
    },
    "qwen3vlmoe": {"head_dim": 128, "num_experts": 4, "num_experts_per_tok": 2},
    "qwen3moe": {"num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": True},
}


@pytest.fixture(params=families.names())
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Headers alone: whatever passes here was decided without reading a weight."""
    return make_source(request.param, tmp_path)


def make_source(name: str, folder: Path, **changes: Any) -> Any:
    family = families.get(name)
    raw = {"architectures": [family.architectures[0]], **SIZES, **EXTRA.get(name, {}), **changes}
    write_tokenizer("qwen2", folder, 512)
    (folder / "config.json").write_text(json.dumps(raw))
    return SimpleNamespace(
        kind="hf",
        path=folder,
        name="tiny",
        config=raw,
        gguf=None,
        revision=None,
        notes=[],
        tensors=tensors_of(family, Config(raw, family.defaults)),
        files={p.name: p for p in folder.iterdir()},
    )


def fatal(source: Any) -> list[families.Problem]:
    return [p for p in families.check(source) if p.fatal]


def test_complete_sources_pass_without_reading_a_weight(source: Any) -> None:
    assert not fatal(source)
    model = families.load_model(source)
    assert model.meta("{arch}.block_count") == 2 and model.num_parameters > 0
    assert model.metadata["general.architecture"].value == model.family


def test_unaccounted_tensor_is_named(source: Any) -> None:
    source.tensors["model.layers.0.mlp.router.weight"] = HeaderTensor("x", (4, 64), "bf16", 512)
    (problem,) = fatal(source)
    assert "model.layers.0.mlp.router.weight" in problem.found and problem.todo
    with pytest.raises(UnsupportedError, match="router"):
        families.load_model(source)


def test_missing_tensor_is_named(source: Any) -> None:
    pattern = r"down_proj|\.w2\.|output_linear|\d\.output\.dense|fc2|mlp\.Wo|lin2"
    name = next(n for n in source.tensors if re.search(pattern, n))
    del source.tensors[name]
    (problem,) = fatal(source)
    assert name in problem.found and "shard" in problem.todo


def test_misshapen_tensor_is_named(source: Any) -> None:
    pattern = r"o(ut)?_(proj|lin)|(attention\.output|attn)\.(dense|Wo)\.weight"
    name = next(n for n in source.tensors if re.search(pattern, n))
    source.tensors[name].shape = (7, 7)
    (problem,) = fatal(source)
    assert name in problem.found and "[7, 7]" in problem.found


def test_embedding_and_vocabulary_must_agree(source: Any) -> None:
    name = next(n for n in source.tensors if re.search(r"(embed_tokens|embeddings)\.weight", n))
    source.tensors[name].shape = (600, 64)
    assert any("600 rows" in p.found and "vocab_size 512" in p.found for p in fatal(source))


def test_known_leftovers_are_ignored(source: Any) -> None:
    for name in (
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "model.layers.1.self_attn.masked_bias",
    ):
        source.tensors[name] = HeaderTensor(name, (8,), "f32", 32)
    assert not fatal(source)


def test_a_saved_copy_of_a_tied_head_is_left_out(tmp_path: Path) -> None:
    source = make_source("llama", tmp_path, tie_word_embeddings=True)
    assert "lm_head.weight" in source.tensors
    assert "output.weight" not in families.load_model(source).tensors


def test_a_missing_head_falls_back_to_the_embedding_and_says_so(tmp_path: Path) -> None:
    source = make_source("llama", tmp_path)
    del source.tensors["lm_head.weight"]
    model = families.load_model(source)
    assert "output.weight" not in model.tensors and any("lm_head" in n for n in model.notes)


def test_vision_tensors_of_gemma3_are_left_out_and_counted(tmp_path: Path) -> None:
    plain = make_source("gemma3", tmp_path)
    text = dict(plain.config)
    del text["architectures"]
    plain.config = {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": text}
    tensors = {n.replace("model.", "language_model.model.", 1): t for n, t in plain.tensors.items()}
    for name in (
        "vision_tower.vision_model.embeddings.patch_embedding.bias",
        "multi_modal_projector.mm_soft.weight",
    ):
        tensors[name] = HeaderTensor(name, (8,), "bf16", 16)
    plain.tensors = tensors
    model = families.load_model(plain)
    assert any("2 vision tensors" in n for n in model.notes)
    assert "blk.1.attn_q_norm.weight" in model.tensors


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        ("llama", {"architectures": ["NopeForCausalLM"]}, "NopeForCausalLM is not supported"),
        ("llama", {"hidden_act": "relu"}, "hidden_act = 'relu'"),
        ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic'"),
        ("llama", {"hidden_size": "many"}, "hidden_size"),
        ("llama", {"num_attention_heads": 3}, "heads"),
        ("llama", {"quantization_config": {"quant_method": "gptq"}}, "already quantized"),
        ("gemma2", {"query_pre_attn_scalar": 20}, "query_pre_attn_scalar"),
        ("gemma2", {"layer_types": ["full_attention"] * 2}, "layer_types"),
        ("gemma3", {"use_bidirectional_attention": True}, "bidirectional"),
        (
            "phi3",
            {"rope_scaling": {"type": "longrope", "long_factor": [1.0], "short_factor": [1.0]}},
            "long factors",
        ),
    ],
)
def test_what_no_stock_runtime_computes_is_refused(
    name: str, change: Any, match: str, tmp_path: Path
) -> None:
    source = make_source(name, tmp_path)
    source.config |= change
    with pytest.raises(KannaError, match=match):
        families.load_model(source)
    assert fatal(source)


@pytest.mark.parametrize("name", ["mistral", "phi3", "qwen2"])
def test_a_window_llama_cpp_does_not_have_is_said(name: str, tmp_path: Path) -> None:
    change = {"sliding_window": 32, "use_sliding_window": True, "max_window_layers": 0}
    model = families.load_model(make_source(name, tmp_path, **change))
    assert any("last 32 tokens" in note for note in model.notes)


SPELLINGS = [
    ({"rope_theta": 5e5}, 5e5, "default"),
    ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, 5e5, "default"),
    ({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2}}, 5e5, "linear"),
    ({"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2}}, 5e5, "linear"),
    ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 2}}, 5e5, "linear"),
    (
        {
            "rope_parameters": {
                "full_attention": {"rope_theta": 5e5, "rope_type": "linear", "factor": 2}
            }
        },
        5e5,
        "linear",
    ),
    ({}, 1e4, "default"),
]


@pytest.mark.parametrize(("values", "theta", "kind"), SPELLINGS)
def test_rope_in_every_spelling(values: dict[str, Any], theta: float, kind: str) -> None:
    rope = rope_of(values, "full_attention")
    assert (rope.theta, rope.kind) == (theta, kind)


def test_phi3_may_call_its_scaling_su_yarn_or_longrope(tmp_path: Path) -> None:
    made = []
    for i, kind in enumerate(("su", "yarn", "longrope")):
        folder = tmp_path / str(i)
        folder.mkdir()
        scaling = {"type": kind, "long_factor": [2.0] * 8, "short_factor": [1.0] * 8}
        source = make_source(
            "phi3", folder, rope_scaling=scaling, original_max_position_embeddings=64
        )
        model = families.load_model(source)
        made.append((model.metadata, list(model.tensors)))
    assert made[0] == made[1] == made[2] and "rope_factors_long.weight" in made[0][1]
    assert made[0][0]["phi3.rope.scaling.attn_factor"].value == pytest.approx((1 + 2 / 6) ** 0.5)


def test_local_rope_in_both_spellings() -> None:
    old = {
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "rope_scaling": {"rope_type": "linear", "factor": 8},
    }
    new = {
        "rope_parameters": {
            "full_attention": {"rope_theta": 1e6},
            "sliding_attention": {"rope_theta": 1e4},
        }
    }
    for values in (old, new):
        local = rope_of(values, "sliding_attention")
        assert (local.theta, local.kind) == (1e4, "default")


def test_llama3_factors_keep_short_and_stretch_long_wavelengths() -> None:
    factors = llama3_factors(
        rope_of({"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}}, ""), 128
    )
    assert factors.shape == (64,) and factors.dtype == np.float32
    assert factors[0] == 1.0 and factors[-1] == 8.0 and np.all(np.diff(factors) >= 0)


def test_head_rows_read_only_what_they_need_and_go_back() -> None:
    values = np.arange(24 * 32, dtype=np.float32).reshape(24, 32)
    inner = Computed("x", values)
    there = HeadRows("y", inner, 8)
    # Row 1 of a head is the first row of its second half.
    assert np.array_equal(there.rows(0, 24)[1], values[4]) and np.array_equal(
        there.rows(9, 10)[0], values[12]
    )
    for start, stop in ((0, 24), (3, 5), (7, 17), (23, 24)):
        block = there.rows(start, stop)
        raw = there.raw(start, stop)
        assert raw is not None and np.array_equal(raw.view(np.float32), block)
        assert np.array_equal(block, there.rows(0, 24)[start:stop])
    back = HeadRows("x", Computed("z", there.rows(0, 24)), 8, interleave=False)
    assert np.array_equal(back.rows(0, 24), values)


def test_head_rows_permute_biases_by_column() -> None:
    bias = Computed("b", np.arange(8, dtype=np.float32))
    assert HeadRows("b", bias, 8).rows(0, 1).tolist() == [[0, 4, 1, 5, 2, 6, 3, 7]]


def test_shifted_norms_are_computed_and_renamed_tensors_are_not() -> None:
    inner = Computed("n", np.zeros(4, np.float32))
    assert (
        Shifted("m", inner, 1.0).rows(0, 1).tolist() == [[1.0] * 4]
        and Shifted("m", inner, 1.0).raw(0, 1) is None
    )
    assert Renamed("m", inner).raw(0, 1) is not None and Renamed("m", inner).nbytes == 16


def test_any_gguf_passes_through(tmp_path: Path) -> None:
    """An architecture nobody heard of, with a 3-D expert tensor."""
    from kanna import encodings

    experts = Computed(
        "blk.0.ffn_up_exps.weight", np.arange(2 * 3 * 32, dtype=np.float32).reshape(2, 3, 32)
    )
    metadata = {
        "general.architecture": string("novel"),
        "novel.block_count": MetaValue(1, ValueType.U32),
    }
    plan = TensorPlan(name=experts.name, tensor=experts, encoding=encodings.get("q8_0"))
    gguf.write(tmp_path / "a.gguf", metadata=metadata, tensors=[plan])
    source = open_source(tmp_path / "a.gguf")
    model = families.load_model(source)
    assert model.family == "novel" and model.tensors[experts.name].shape == (2, 3, 32)
    assert num_rows(model.tensors[experts.name]) == 6
    assert any("already quantized (q8_0)" in n for n in model.notes) and not families.check(source)
    with pytest.raises(UnsupportedError, match="novel"):
        families.to_hf(model)


def test_a_gguf_without_architecture_is_refused(tmp_path: Path) -> None:
    gguf.write(tmp_path / "a.gguf", metadata={"general.name": string("x")}, tensors=[])
    with pytest.raises(SourceError, match=r"general\.architecture"):
        families.load_model(open_source(tmp_path / "a.gguf"))


def test_card_and_generation_config_become_general_keys(tmp_path: Path) -> None:
    source = make_source("llama", tmp_path)
    card = (
        "---\nlicense: apache-2.0\nlanguage: [en, fr]\ntags: [tiny]\nbase_model: org/Big-1B\n---\n"
        "# Card\n"
    )
    (tmp_path / "README.md").write_text(card)
    (tmp_path / "generation_config.json").write_text(
        '{"temperature": 0.6, "top_k": 20, "top_p": 0.95}'
    )
    source.files = {p.name: p for p in tmp_path.iterdir()}
    model = families.load_model(source)
    assert model.meta("general.license") == "apache-2.0" and model.meta("general.languages") == [
        "en",
        "fr",
    ]
    assert model.meta("general.base_model.0.name") and model.meta("general.size_label")
    assert model.meta("general.sampling.temp") == 0.6 and model.meta("general.sampling.top_k") == 20
    (tmp_path / "README.md").write_text("---\nlicense: [broken\n---\n")
    (tmp_path / "generation_config.json").write_text("nope")
    notes = families.load_model(source).notes
    assert any("YAML" in n for n in notes) and any("generation_config" in n for n in notes)


def test_licence_and_languages_go_back_into_the_model_card(tmp_path: Path) -> None:
    source = make_source("llama", tmp_path)
    (tmp_path / "README.md").write_text("---\nlicense: mit\nlanguage: [en, de]\n---\n")
    source.files = {p.name: p for p in tmp_path.iterdir()}
    card = families.to_hf(families.load_model(source))[2]["README.md"].decode()
    assert 'license: "mit"' in card and 'language: ["en", "de"]' in card

"""Every key of a config.json is read, known to change nothing, or said; what changes is refused."""

from __future__ import annotations

import dataclasses
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families.test_families_checks import make_source

from kanna import families
from kanna.errors import KannaError
from kanna.families import _accounting, _config_keys, _rope_checks
from kanna.families._config import Config
from kanna.families._rope import llama3_factors, rope_of, yarn_attention_factor

ROOT = Path(__file__).parents[2]
FAMILIES = families.names()
NOT_OURS = {
    "text_config",
    "vision_config",
    "sub_configs",
    "mm_tokens_per_image",
    "is_encoder_decoder",
    "per_layer_config",
}


class Recorded(dict[str, Any]):
    """Values of a config, and the keys that were asked for."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        """As of any dictionary."""
        self.asked.add(key)
        return super().get(key, default)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_key_that_is_read_is_declared(name: str, tmp_path: Path) -> None:
    family = families.get(name)
    config = Config(make_source(name, tmp_path).config, family.defaults)
    config.values = recorded = Recorded(config.values)
    family.metadata(config)
    family.extra(config)
    family.problems(config)
    _rope_checks.problems(family, config)
    assert recorded.asked <= _accounting.known(family) | family.defaults.keys()


@pytest.mark.parametrize("name", FAMILIES)
def test_every_field_of_transformers_is_known(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    family = families.get(name)
    kind = type(transformers.AutoConfig.for_model(family.model_type))
    fields = {f.name for f in dataclasses.fields(kind) if not f.name.startswith("_")}
    known = _accounting.known(family) | _config_keys.ONLY.keys() | NOT_OURS
    assert fields <= known, sorted(fields - known)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_config_transformers_writes_has_no_remark(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    family = families.get(name)
    source = make_source(name, tmp_path)
    written = transformers.AutoConfig.for_model(family.model_type, **source.config).to_dict()
    config = Config(family.respell_config(written | source.config), family.defaults)
    assert not _accounting.problems(family, config)


def loaded(name: str, folder: Path, **changes: Any) -> list[str]:
    """Notes of a model with these changes to its config."""
    return families.load_model(make_source(name, folder, **changes)).notes


SAID = {
    "unknown": ("llama", {"my_own_key": 3}, "my_own_key = 3"),
    "unknown false": ("qwen2", {"use_something": False}, "use_something = False"),
    "unknown list": ("gemma3", {"per_layer_width": [1, 2]}, "per_layer_width"),
    "remote code": (
        "llama",
        {"auto_map": {"AutoModelForCausalLM": "modeling_x.XForCausalLM"}},
        "modeling_x.XForCausalLM",
    ),
    "both spellings of rope": (
        "llama",
        {
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
            "rope_scaling": {"rope_type": "linear", "factor": 2.0},
        },
        "rope_scaling counts",
    ),
    "idle rope parameters": (
        "llama",
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0, "beta_fast": 32}},
        "does not read beta_fast",
    ),
    "usual window of mistral": ("mistral", {"max_position_embeddings": 9000}, "last 4096 tokens"),
    "window by layer types": (
        "qwen2",
        {
            "use_sliding_window": True,
            "sliding_window": 32,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        "last 32 tokens",
    ),
}


@pytest.mark.parametrize("case", SAID)
def test_what_is_left_out_is_said(case: str, tmp_path: Path) -> None:
    name, changes, says = SAID[case]
    assert any(says in note for note in loaded(name, tmp_path, **changes))


SILENT = {
    "null": ("llama", {"logit_scale": None, "my_own_key": None}),
    "neutral": ("llama", {"attention_dropout": 0.5, "use_cache": False, "logit_scale": 1.0}),
    "of Qwen": ("qwen2", {"use_mrope": False}),
    "of Phi-4": ("phi3", {"full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": False}),
    "of SmolLM2": ("llama", {"is_llama_config": True, "transformers.js_config": {"a": 1}}),
    "no window": ("mistral", {"sliding_window": None}),
    "window not used": ("qwen2", {"use_sliding_window": False, "sliding_window": 32}),
}


@pytest.mark.parametrize("case", SILENT)
def test_what_changes_nothing_has_no_remark(case: str, tmp_path: Path) -> None:
    name, changes = SILENT[case]
    assert not loaded(name, tmp_path, **changes)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
REFUSED = {
    "scaled logits": ("llama", {"logit_scale": 0.5}, "logit_scale"),
    "scaled residuals": ("mistral", {"residual_multiplier": 0.2}, "residual_multiplier"),
    "experts": ("qwen2", {"num_experts": 8}, "num_experts"),
    "caps of another family": ("llama", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
    "layers without rotation": ("llama", {"no_rope_layers": [1, 0]}, "no_rope_layers"),
    "layers of other sizes": ("llama", {"per_layer_config": {"0": {"head_dim": 8}}}, "per_layer"),
    "partial rotation": ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    "partial rotation in rope": (
        "qwen2",
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
        "partial_rotary_factor",
    ),
    "unknown rope parameter": (
        "qwen2",
        {"rope_scaling": {"rope_type": "default", "mrope_section": [1, 2, 3]}},
        "mrope_section",
    ),
    "rope of a list": ("llama", {"rope_scaling": [1]}, "rope_scaling = [1]"),
    "theta of a text": ("llama", {"rope_theta": "10000"}, "rope_theta"),
    "theta below zero": ("llama", {"rope_theta": -1.0}, "rope_theta"),
    "yarn's fast beta": ("llama", {"rope_scaling": YARN | {"beta_fast": 16}}, "beta_fast"),
    "yarn's slow beta": ("qwen2", {"rope_scaling": YARN | {"beta_slow": 2}}, "beta_slow"),
    "yarn not truncated": ("llama", {"rope_scaling": YARN | {"truncate": False}}, "truncate"),
    "yarn without a factor": ("llama", {"rope_scaling": {"rope_type": "yarn"}}, "factor"),
    "two thetas": (
        "qwen2",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "rope_scaling": YARN},
        "rope_theta 1000000.0",
    ),
    "scaled sliding layers": (
        "gemma3",
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4},
            }
        },
        "sliding layers",
    ),
    "caps that are off": ("gemma2", {"attn_logit_softcapping": None}, "attn_logit_softcapping"),
    "kinds of layers": ("qwen3", {"layer_types": ["linear_attention"] * 2}, "layer_types"),
    "kinds of too few layers": ("qwen3", {"layer_types": ["full_attention"]}, "layer_types"),
    "head size of its own": ("phi3", {"head_dim": 8}, "head_dim"),
    "tied by a text": ("llama", {"tie_word_embeddings": "false"}, "tie_word_embeddings"),
    "quantized by a text": ("llama", {"quantization_config": "int8"}, "int8"),
    "a number for a flag": ("llama", {"mlp_bias": 3, "rope_interleaved": 1}, "rope_interleaved"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_changes_the_model_is_refused(case: str, tmp_path: Path) -> None:
    name, changes, says = REFUSED[case]
    with pytest.raises(KannaError) as raised:
        loaded(name, tmp_path, **changes)
    assert says in raised.value.found, raised.value.found


def test_biases_that_transformers_leaves_out_are_refused(tmp_path: Path) -> None:
    from kanna.formats.stored import HeaderTensor

    source = make_source("llama", tmp_path)
    name = "model.layers.0.self_attn.q_proj.bias"
    rows = source.tensors[name.replace("bias", "weight")].shape[0]
    source.tensors[name] = HeaderTensor(name, (rows,), "f32", 4 * rows)
    with pytest.raises(KannaError, match="has no attention_bias"):
        families.load_model(source)
    source.config["attention_bias"] = True
    assert "blk.0.attn_q.bias" in families.load_model(source).tensors


SPELLINGS: dict[str, dict[str, Any]] = {
    "theta": {"rope_theta": 5e5},
    "nothing": {},
    "linear": {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}},
    "yarn": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
    "yarn of its own context": {"rope_parameters": YARN | {"rope_theta": 1e6}},
    "yarn with a factor": {"rope_parameters": YARN | {"attention_factor": 1.3, "rope_theta": 1e6}},
    "yarn with scales": {"rope_scaling": YARN | {"mscale": 1.0, "mscale_all_dim": 0.5}},
    "llama3": {
        "rope_theta": 5e5,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
        },
    },
    "both": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0},
    },
}


@pytest.mark.parametrize("case", SPELLINGS)
def test_frequencies_are_those_of_transformers(case: str) -> None:
    """Divided and scaled as transformers computes them from the same config."""
    transformers = pytest.importorskip("transformers")
    import copy

    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    values = {
        "hidden_size": 128,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
    } | SPELLINGS[case]
    theirs = transformers.AutoConfig.for_model("llama", **copy.deepcopy(values))
    ours = rope_of(values, "full_attention")
    params = theirs.rope_parameters
    assert (ours.kind, ours.theta) == (params["rope_type"], params["rope_theta"])
    if ours.kind == "default":
        return
    frequencies, scale = ROPE_INIT_FUNCTIONS[ours.kind](theirs, "cpu")
    plain = ours.theta ** (-np.arange(0, 32, 2) / 32)
    if ours.kind == "llama3":
        assert np.allclose(plain / llama3_factors(ours, 32), frequencies.numpy(), rtol=1e-5)
    elif ours.kind == "linear":
        assert np.allclose(plain / ours.number("factor"), frequencies.numpy(), rtol=1e-5)
    else:
        original = "original_max_position_embeddings"
        assert ours.number(original) == params[original]
        assert yarn_attention_factor(ours) == pytest.approx(scale)


def test_the_page_is_what_the_code_says() -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "config_keys.py"))
    assert (ROOT / "docs" / "config.md").read_text(encoding="utf-8") == tool["page"](), (
        "run `make docs`"
    )


def test_the_table_is_what_the_code_says() -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "family_table.py"))
    text = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    assert text == tool["page"](text), "run `make docs`"
    text = (ROOT / "docs" / "vision.md").read_text(encoding="utf-8")
    assert text == tool["vision"](text), "run `make docs`"
    for name in families.names():
        page = (ROOT / "docs" / "families" / f"{name}.md").read_text(encoding="utf-8")
        assert page == tool["own_page"](name, page), name

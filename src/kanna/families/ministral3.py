"""Ministral 3: yarn, and attention that grows colder with the length of the text."""

from __future__ import annotations

from typing import Any

from kanna.families._config import Config
from kanna.families._keys import common
from kanna.families._stored_rope import scaling, short
from kanna.families.base import Family, Metadata, Problem
from kanna.model import Model, f32, u32

ARCH = "mistral3"


def metadata(c: Config) -> Metadata:
    """The `mistral3.*` keys; factors of cosine and sine cancel, as the log multiplier says."""
    rope = c.rope()
    keys = common(ARCH, c, head_dim=True) | {
        f"{ARCH}.vocab_size": u32(c.vocab),
        f"{ARCH}.rope.dimension_count": u32(c.head_dim),
    }
    if rope.kind == "yarn":
        keys.pop(f"{ARCH}.rope.scaling.attn_factor", None)
        keys[f"{ARCH}.rope.scaling.yarn_log_multiplier"] = f32(rope.number("mscale_all_dim", 0.0))
        keys[f"{ARCH}.attention.temperature_scale"] = f32(rope.number("llama_4_scaling_beta", 0.0))
    return keys


def checks(c: Config) -> list[Problem]:
    """llama.cpp takes the first of two scales of yarn for 1."""
    scale = c.rope().number("mscale", 1.0) if c.rope().kind == "yarn" else 1.0
    if scale == 1.0:
        return []
    return [
        Problem(
            f"rope scaling 'yarn' has mscale = {scale:g}",
            "1, which llama.cpp computes whatever the file says",
            "no stock runtime computes this model",
        )
    ]


def to_config(model: Model) -> dict[str, Any]:
    """The parameters of the rotary embedding, among which the temperature is."""
    if model.meta("{arch}.rope.scaling.type") != "yarn":
        return {}
    multiplier = short(model.meta("{arch}.rope.scaling.yarn_log_multiplier", 0.0))
    params = (scaling(model) or {}) | {
        "rope_theta": short(model.meta("{arch}.rope.freq_base")),
        "mscale": multiplier,
        "mscale_all_dim": multiplier,
        "llama_4_scaling_beta": short(model.meta("{arch}.attention.temperature_scale", 0.0)),
    }
    params.pop("attention_factor", None)
    return {"rope_parameters": params, "rope_scaling": None}


FAMILY = Family(
    arch=ARCH,
    summary="Ministral 3: yarn, and attention that grows colder with the length of the text",
    architectures=("Ministral3ForCausalLM", "Mistral3ForConditionalGeneration"),
    model_type="ministral3",
    model_types=("mistral3",),
    metadata=metadata,
    defaults={
        "vocab_size": 131072,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 34,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 262144,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1_000_000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    },
    fixed={"hidden_act": ("silu", "swish"), "sliding_window": ()},
    rope_reads=frozenset({"llama_4_scaling_beta", "max_position_embeddings"}),
    rotate_half=True,
    skipped=(r"(model\.)?vision_tower\..*", r"(model\.)?multi_modal_projector\..*"),
    checks=checks,
    to_config=to_config,
)

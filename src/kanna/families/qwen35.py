"""Qwen3.5, 3.6 and 3.8 (dense): gated delta nets, and attention with a gate every fourth layer."""

from __future__ import annotations

from typing import Any

from kanna._util.typed import listed, read, whole
from kanna.families._config import Config
from kanna.families._keys import common
from kanna.families._stored_rope import short
from kanna.families.base import (
    ATTENTION,
    ENDS,
    FEED_FORWARD,
    QK_NORMS,
    Block,
    Family,
    Metadata,
    Problem,
)
from kanna.families.blocks.delta_net import DELTA_NET, is_full_attention
from kanna.families.blocks.next_tokens import next_tokens
from kanna.model import Model, ValueType, array, u32

ARCH = "qwen35"
SECTIONS = (11, 11, 10)
"""Rotary pairs of time, height and width, where config.json is silent; text turns all alike."""
NORMS = {
    "model.layers.{}.input_layernorm": "blk.{}.attn_norm",
    "model.layers.{}.post_attention_layernorm": "blk.{}.post_attention_norm",
}
ATTENTION_LAYER = ATTENTION | QK_NORMS


def metadata(c: Config, arch: str = ARCH) -> Metadata:
    """The keys of `arch`."""
    sections = c.rope().params.get("mrope_section", list(SECTIONS))
    parts = read(sections, listed(whole()), "mrope_section", "config.json")
    return common(arch, c, head_dim=True) | {
        f"{arch}.rope.dimension_sections": array([*parts, 0], ValueType.I32),
        f"{arch}.rope.dimension_count": u32(int(c.head_dim * c.rotary_part())),
    }


def sizes(c: Config) -> dict[str, int]:
    """Queries and their gates."""
    return {"2q": 2 * c.heads * c.head_dim}


def checks(c: Config) -> list[Problem]:
    """Value heads must share key heads evenly, in states as wide as they are high."""
    problems: list[Problem] = []
    keys, values = c.count("linear_num_key_heads"), c.count("linear_num_value_heads")
    if values % keys:
        problems.append(
            Problem(
                f"config.json has {values} value heads of {keys} key heads in its delta nets",
                "linear_num_value_heads a multiple of linear_num_key_heads",
            )
        )
    if c.count("linear_key_head_dim") != c.count("linear_value_head_dim"):
        problems.append(
            Problem(
                "config.json has linear_key_head_dim and linear_value_head_dim that differ",
                "one size, as llama.cpp computes it",
                "no stock runtime computes this model",
            )
        )
    if c.rope().params.get("mrope_interleaved") is False:
        problems.append(Problem("config.json has mrope_interleaved = false", "true"))
    return problems


def to_config(model: Model) -> dict[str, Any]:
    """The parameters of the rotary embedding."""
    size = model.whole("{arch}.attention.key_length", least=1)
    sections = model.meta("{arch}.rope.dimension_sections", [*SECTIONS, 0])
    return {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": short(model.meta("{arch}.rope.freq_base")),
            "partial_rotary_factor": model.whole("{arch}.rope.dimension_count", size) / size,
            "mrope_section": [int(n) for n in sections][:3],
            "mrope_interleaved": True,
        },
        "attention_bias": False,
    }


DEFAULTS: dict[str, Any] = {
    "vocab_size": 248320,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "partial_rotary_factor": 0.25,
}
FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False,),
    "attn_output_gate": (True,),
    "mlp_only_layers": ([],),
}
READS = frozenset({"partial_rotary_factor", "mamba_ssm_dtype", "mtp_use_dedicated_embeddings"})
ROPE_READS = frozenset({"mrope_section", "mrope_interleaved"})
SKIPPED = (r"(model\.)?visual\..*",)

FAMILY = Family(
    arch=ARCH,
    summary="Qwen3.5, 3.6 and 3.8 (dense): gated delta nets, and gated attention between them",
    architectures=("Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration"),
    model_type="qwen3_5_text",
    model_types=("qwen3_5",),
    metadata=metadata,
    names=ENDS | NORMS | FEED_FORWARD,
    blocks=(
        Block(names=ATTENTION_LAYER, shapes={"attn_q": ("2q", "hidden")}, where=is_full_attention),
        DELTA_NET,
        next_tokens(NORMS | ATTENTION_LAYER | FEED_FORWARD),
    ),
    sizes=sizes,
    defaults=DEFAULTS,
    fixed=FIXED,
    reads=READS,
    rope_types=frozenset({"default"}),
    rope_reads=ROPE_READS,
    norm_offset=1.0,
    skipped=SKIPPED,
    checks=checks,
    to_config=to_config,
)

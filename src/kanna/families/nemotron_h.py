"""Nemotron-H, Nemotron Nano 2: a layer is a Mamba 2 state, attention or a feed-forward part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kanna.errors import SourceError
from kanna.families._config import Config
from kanna.families._keys import common
from kanna.families._stored_rope import short
from kanna.families.base import Block, Family, Metadata
from kanna.families.blocks.mamba2 import CONVOLUTION_BIAS as CONVOLUTION_BIAS
from kanna.families.blocks.mamba2 import Mamba2, mamba2
from kanna.model import Model, ValueType, array, boolean, f32

ARCH = "nemotron_h"
STATE, ATTENTION, DENSE, EXPERTS = "linear_attention", "full_attention", "mlp", "moe"
LETTERS = {"M": STATE, "*": ATTENTION, "-": DENSE, "E": EXPERTS}
OLDER = {"mamba": STATE, "attention": ATTENTION}
MAMBA = Mamba2(
    heads="mamba_num_heads",
    head="mamba_head_dim",
    groups="n_groups",
    state="ssm_state_size",
    kernel="conv_kernel",
)


def kinds_of(config: Mapping[str, Any]) -> list[str]:
    """What each layer is, from a list or from a letter each."""
    given = config.get("layers_block_type")
    if given is None:
        pattern = config.get("hybrid_override_pattern")
        given = [LETTERS.get(letter, letter) for letter in pattern or ""]
    kinds = [OLDER.get(kind, kind) for kind in given] if isinstance(given, list) else []
    if not kinds or any(kind not in LETTERS.values() for kind in kinds):
        raise SourceError(
            f"config.json has layers_block_type = {config.get('layers_block_type')!r:.80} and "
            f"hybrid_override_pattern = {config.get('hybrid_override_pattern')!r:.80}",
            expected=f"{', '.join(LETTERS.values())}, or {' '.join(LETTERS)}, one a layer",
            todo="fetch config.json again from where the model was published",
        )
    return kinds


def kinds(c: Config) -> list[str]:
    """What each layer is; SourceError for another number than there are layers."""
    given = kinds_of(c.values)
    if len(given) != c.layers:
        raise SourceError(
            f"config.json names the kinds of {len(given)} layers",
            expected=f"{c.layers}, which is num_hidden_layers",
            todo="fetch config.json again from where the model was published",
        )
    return given


def is_state(c: Config, layer: int) -> bool:
    """Whether a layer keeps a state."""
    return kinds(c)[layer] == STATE


def is_attention(c: Config, layer: int) -> bool:
    """Whether a layer attends."""
    return kinds(c)[layer] == ATTENTION


def _is_dense(c: Config, layer: int) -> bool:
    return kinds(c)[layer] == DENSE


def has_experts(config: Mapping[str, Any]) -> bool:
    """Whether a config.json has layers with experts."""
    given = config.get("layers_block_type") or config.get("hybrid_override_pattern")
    return isinstance(given, list | str) and (EXPERTS in given or "E" in given)


def keys(arch: str, c: Config, width: int) -> Metadata:
    """The keys of `arch`; arrays say which layers attend, and which are feed-forward parts."""
    every = kinds(c)
    wide = [width if kind in (DENSE, EXPERTS) else 0 for kind in every]
    heads = [c.kv_heads if kind == ATTENTION else 0 for kind in every]
    return common(arch, c, head_dim=True, rope_base=False, epsilon="layer_norm_epsilon") | {
        f"{arch}.attention.layer_norm_epsilon": f32(c.number("layer_norm_epsilon")),
        f"{arch}.feed_forward_length": array(wide, ValueType.I32),
        f"{arch}.attention.head_count_kv": array(heads, ValueType.I32),
        f"{arch}.rope.scaling.finetuned": boolean(False),
    }


def metadata(c: Config) -> Metadata:
    """The `nemotron_h.*` keys."""
    return keys(ARCH, c, c.ff)


def to_config(model: Model) -> dict[str, Any]:
    """Config keys of Nemotron-H, back from the metadata."""
    heads = list(model.meta("{arch}.attention.head_count_kv"))
    wide = [int(n) for n in model.meta("{arch}.feed_forward_length")]
    feed = EXPERTS if model.whole("{arch}.expert_count", 0) else DENSE
    return {
        "layers_block_type": [
            ATTENTION if n else feed if ff else STATE for n, ff in zip(heads, wide, strict=True)
        ],
        "intermediate_size": max(wide),
        "layer_norm_epsilon": short(model.meta("{arch}.attention.layer_norm_rms_epsilon")),
        "mlp_hidden_act": "relu2",
        "use_conv_bias": True,
    }


def respell(name: str) -> str:
    """Names of earlier checkpoints as those of transformers."""
    name = name.replace("e_score_correction.bias", "e_score_correction_bias")
    return "model." + name.removeprefix("backbone.") if name.startswith("backbone.") else name


NAMES = {
    "model.embeddings": "token_embd",
    "model.layers.{}.norm": "blk.{}.attn_norm",
    "model.norm_f": "output_norm",
    "lm_head": "output",
}
LAYERS = (
    mamba2("mixer", is_state, MAMBA),
    Block(
        names={
            "model.layers.{}.mixer.q_proj": "blk.{}.attn_q",
            "model.layers.{}.mixer.k_proj": "blk.{}.attn_k",
            "model.layers.{}.mixer.v_proj": "blk.{}.attn_v",
            "model.layers.{}.mixer.o_proj": "blk.{}.attn_output",
        },
        where=is_attention,
    ),
    Block(
        names={
            "model.layers.{}.mixer.up_proj": "blk.{}.ffn_up",
            "model.layers.{}.mixer.down_proj": "blk.{}.ffn_down",
        },
        where=_is_dense,
    ),
)
DEFAULTS: dict[str, Any] = {
    "vocab_size": 131072,
    "hidden_size": 4096,
    "intermediate_size": 21504,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 4096,
    "layer_norm_epsilon": 1e-5,
    "mlp_hidden_act": "relu2",
    "mamba_hidden_act": "silu",
    "mamba_num_heads": 128,
    "mamba_head_dim": 64,
    "n_groups": 8,
    "ssm_state_size": 128,
    "conv_kernel": 4,
    "tie_word_embeddings": False,
}
FIXED: dict[str, tuple[Any, ...]] = {
    "mlp_hidden_act": ("relu2",),
    "mamba_hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "use_bias": (False,),
    "mamba_proj_bias": (False,),
    "use_conv_bias": (True,),
    "sliding_window": (),
    "num_nextn_predict_layers": (0,),
}
READS = frozenset(
    {
        "chunk_size",
        "expand",
        "hybrid_override_pattern",
        "layer_norm_epsilon",
        "layers_block_type",
        "mamba_ssm_cache_dtype",
        "moe_intermediate_size",
        "moe_latent_size",
        "moe_shared_expert_intermediate_size",
        "moe_shared_expert_overlap",
        "mtp_layers_block_type",
        "n_group",
        "n_routed_experts",
        "n_shared_experts",
        "norm_topk_prob",
        "num_experts_per_tok",
        "num_logits_to_keep",
        "output_router_logits",
        "rescale_prenorm_residual",
        "residual_in_fp32",
        "routed_scaling_factor",
        "time_step_floor",
        "time_step_limit",
        "time_step_max",
        "time_step_min",
        "topk_group",
        "use_mamba_kernels",
    }
)

FAMILY = Family(
    arch=ARCH,
    summary="Nemotron-H and Nemotron Nano 2: 4B to 56B",
    architectures=("NemotronHForCausalLM",),
    model_type="nemotron_h",
    suits=lambda config: not has_experts(config),
    metadata=metadata,
    names=NAMES,
    blocks=LAYERS,
    biases=CONVOLUTION_BIAS,
    defaults=DEFAULTS,
    fixed=FIXED,
    reads=READS,
    rope_types=frozenset(),
    respell=respell,
    to_config=to_config,
)

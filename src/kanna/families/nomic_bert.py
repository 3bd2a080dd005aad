"""Nomic Embed v1 and v1.5: a BERT with rotary positions and gated feed-forward parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kanna._util.typed import whole
from kanna.families import bert
from kanna.families._config import Config
from kanna.families._stored_rope import short
from kanna.families.base import Family, Metadata, Problem
from kanna.model import Model, boolean, f32, u32

ARCH = "nomic-bert"
KEYS = {
    "activation_function": "hidden_act",
    "layer_norm_epsilon": "layer_norm_eps",
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "n_inner": "intermediate_size",
    "n_layer": "num_hidden_layers",
    "n_positions": "max_position_embeddings",
    "rotary_emb_base": "rope_theta",
}
"""Keys as the models were published with, as GPT-2 has them, by those of transformers' class."""
_LAYER = "encoder.layers.{}"


def respell_config(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """config.json in the keys of transformers' class; those count where both are given."""
    renamed = {KEYS[key]: value for key, value in raw.items() if key in KEYS}
    return {**renamed, **{k: v for k, v in raw.items() if k not in KEYS}}


def metadata(c: Config) -> Metadata:
    """The `nomic-bert.*` keys; beyond what it was trained on, its own code stretches positions."""
    trained = c.read("max_trained_positions", whole(1), c.context)
    return {
        f"{ARCH}.block_count": u32(c.layers),
        f"{ARCH}.context_length": u32(min(c.context, trained)),
        f"{ARCH}.embedding_length": u32(c.hidden),
        f"{ARCH}.feed_forward_length": u32(c.ff),
        f"{ARCH}.attention.head_count": u32(c.heads),
        f"{ARCH}.attention.layer_norm_epsilon": f32(c.number("layer_norm_eps")),
        f"{ARCH}.attention.causal": boolean(False),
        f"{ARCH}.rope.freq_base": f32(c.rope().theta),
        "tokenizer.ggml.token_type_count": u32(c.count("type_vocab_size")),
    }


def checks(c: Config) -> list[Problem]:
    """llama.cpp takes the size of a head from the width."""
    if c.hidden % c.heads == 0 and c.head_dim == c.hidden // c.heads:
        return []
    return [
        Problem(
            f"config.json has hidden_size = {c.hidden}, num_attention_heads = {c.heads} and heads "
            f"of {c.head_dim}",
            "heads that share the width",
            "no stock runtime computes this model",
        )
    ]


def whole_config(model: Model) -> dict[str, Any]:
    """config.json as transformers' class has it."""
    return {
        "architectures": ["NomicBertModel"],
        "model_type": "nomic_bert",
        "vocab_size": model.tensors["token_embd.weight"].shape[0],
        "hidden_size": model.whole("{arch}.embedding_length", least=1),
        "intermediate_size": model.whole("{arch}.feed_forward_length", least=1),
        "num_hidden_layers": model.whole("{arch}.block_count", least=1),
        "num_attention_heads": model.whole("{arch}.attention.head_count", least=1),
        "max_position_embeddings": model.whole("{arch}.context_length", least=1),
        "layer_norm_eps": short(model.meta("{arch}.attention.layer_norm_epsilon")),
        "type_vocab_size": model.whole("tokenizer.ggml.token_type_count", 1, least=1),
        "hidden_act": "silu",
        "pad_token_id": model.whole("tokenizer.ggml.padding_token_id", 0),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": short(model.meta("{arch}.rope.freq_base", 10000.0)),
        },
    }


FAMILY = Family(
    arch=ARCH,
    summary="Nomic Embed v1 and v1.5: a BERT with rotary positions and gated feed-forward parts",
    architectures=("NomicBertModel",),
    model_type="nomic_bert",
    metadata=metadata,
    names={
        "embeddings.word_embeddings": "token_embd",
        "embeddings.token_type_embeddings": "token_types",
        "emb_ln": "token_embd_norm",
        f"{_LAYER}.attn.Wqkv": "blk.{}.attn_qkv",
        f"{_LAYER}.attn.out_proj": "blk.{}.attn_output",
        f"{_LAYER}.norm1": "blk.{}.attn_output_norm",
        f"{_LAYER}.mlp.fc11": "blk.{}.ffn_up",
        f"{_LAYER}.mlp.fc12": "blk.{}.ffn_gate",
        f"{_LAYER}.mlp.fc2": "blk.{}.ffn_down",
        f"{_LAYER}.norm2": "blk.{}.layer_output_norm",
    },
    biases=frozenset({"token_embd_norm", "attn_output_norm", "layer_output_norm"}),
    shapes={
        "token_types": ("types", "hidden"),
        "token_embd_norm": ("hidden",),
        "attn_output_norm": ("hidden",),
        "layer_output_norm": ("hidden",),
    },
    sizes=lambda c: {"types": c.count("type_vocab_size")},
    defaults=bert.DEFAULTS
    | {
        "vocab_size": 30528,
        "max_position_embeddings": 2048,
        "hidden_act": "silu",
        "rope_theta": 1000.0,
    },
    fixed={
        "hidden_act": ("silu", "swiglu"),
        "causal": (False,),
        "mlp_fc1_bias": (False,),
        "mlp_fc2_bias": (False,),
        "moe_every_n_layers": (0,),
        "parallel_block": (False,),
        "prenorm": (False,),
        "qkv_proj_bias": (False,),
        "rotary_emb_fraction": (1,),
        "rotary_emb_interleaved": (False,),
        "rotary_emb_scale_base": (),
        "use_rms_norm": (False,),
    },
    reads=frozenset(
        {
            "attention_probs_dropout_prob",
            "attn_pdrop",
            "dense_seq_output",
            "fused_bias_fc",
            "fused_dropout_add_ln",
            "last_layer_subset",
            "layer_norm_eps",
            "max_trained_positions",
            "pad_vocab_size_multiple",
            "reorder_and_upcast_attn",
            "rotary_scaling_factor",
            "scale_attn_by_inverse_layer_idx",
            "scale_attn_weights",
            "summary_activation",
            "summary_first_dropout",
            "summary_proj_to_labels",
            "summary_type",
            "summary_use_proj",
            "type_vocab_size",
            "use_flash_attn",
            "use_xentropy",
        }
    ),
    rope_types=frozenset({"default"}),
    checks=checks,
    encodes=True,
    respell=bert.respell,
    respell_config=respell_config,
    whole_config=whole_config,
)

"""Phi-1, Phi-1.5 and Phi-2: attention and feed-forward part side by side after one layer norm."""

from __future__ import annotations

from kanna.families._config import Config
from kanna.families._keys import common
from kanna.families.base import Family, Metadata, derived_head_size
from kanna.model import Model, u32

ARCH = "phi2"


def metadata(c: Config) -> Metadata:
    """The `phi2.*` keys."""
    return common(ARCH, c, head_dim=False, epsilon="layer_norm_eps", mean=True) | {
        f"{ARCH}.rope.dimension_count": u32(int(c.head_dim * c.rotary_part())),
    }


def rotary_part(model: Model) -> dict[str, float]:
    """Share of a head that rotates, back from the metadata."""
    heads = model.whole("{arch}.attention.head_count", least=1)
    size = model.whole("{arch}.embedding_length", least=1) // heads
    return {"partial_rotary_factor": model.whole("{arch}.rope.dimension_count", size) / size}


FAMILY = Family(
    arch=ARCH,
    summary="Phi-1, Phi-1.5 and Phi-2",
    architectures=("PhiForCausalLM",),
    model_type="phi",
    metadata=metadata,
    names={
        "model.embed_tokens": "token_embd",
        "model.layers.{}.input_layernorm": "blk.{}.attn_norm",
        "model.layers.{}.self_attn.q_proj": "blk.{}.attn_q",
        "model.layers.{}.self_attn.k_proj": "blk.{}.attn_k",
        "model.layers.{}.self_attn.v_proj": "blk.{}.attn_v",
        "model.layers.{}.self_attn.dense": "blk.{}.attn_output",
        "model.layers.{}.mlp.fc1": "blk.{}.ffn_up",
        "model.layers.{}.mlp.fc2": "blk.{}.ffn_down",
        "model.final_layernorm": "output_norm",
        "lm_head": "output",
    },
    biases=frozenset(
        {
            "attn_norm",
            "attn_q",
            "attn_k",
            "attn_v",
            "attn_output",
            "ffn_up",
            "ffn_down",
            "output_norm",
            "output",
        }
    ),
    defaults={
        "vocab_size": 51200,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "layer_norm_eps": 1e-5,
        "hidden_act": "gelu_new",
        "tie_word_embeddings": False,
        "partial_rotary_factor": 0.5,
    },
    fixed={
        "hidden_act": ("gelu_new",),
        "qk_layernorm": (False,),
        "tie_word_embeddings": (False,),
    },
    reads=frozenset({"layer_norm_eps", "partial_rotary_factor"}),
    rope_types=frozenset({"default", "linear"}),
    checks=derived_head_size,
    to_config=rotary_part,
)

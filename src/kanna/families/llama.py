"""Llama 1 to 3.3, and everything published as LlamaForCausalLM."""

from __future__ import annotations

from kanna.families._config import Config
from kanna.families._keys import common
from kanna.families._rope import llama3_factors
from kanna.families.base import Family, Metadata
from kanna.model import F32, u32

ARCH = "llama"


VISION = frozenset(
    {
        "_pad_token_id",
        "image_token_id",
        "is_llama_config",
        "perceiver_config",
        "pixel_shuffle_factor",
        "scale_factor",
        "use_reentrant_checkpointing",
        "use_resampler",
        "transformers.js_config",
    }
)
"""Keys of SmolVLM and Idefics 3 that are about their tower."""


def metadata(c: Config) -> Metadata:
    """The `llama.*` keys."""
    return common(ARCH, c) | {
        f"{ARCH}.vocab_size": u32(c.vocab),
        f"{ARCH}.rope.dimension_count": u32(c.head_dim),
    }


def extra(c: Config) -> dict[str, F32]:
    """`rope_freqs.weight` [head_dim / 2] where Llama 3.1's scaling is in use."""
    rope = c.rope()
    return {"rope_freqs.weight": llama3_factors(rope, c.head_dim)} if rope.kind == "llama3" else {}


FAMILY = Family(
    arch=ARCH,
    summary="Llama 1 to 3.3, and everything published as LlamaForCausalLM",
    also=(
        "Llama 3.2",
        "TinyLlama",
        "SmolLM2",
        "Code Llama",
        "Yi",
        "DeepSeek-R1-Distill-Llama",
        "DeepSeek-Coder",
        "Falcon 3",
        "EuroLLM",
        "Vicuna",
        "SOLAR",
        "the model of text of SmolVLM, SmolVLM2 and Idefics 3",
    ),
    architectures=(
        "LlamaForCausalLM",
        "LLaMAForCausalLM",
        "SmolVLMForConditionalGeneration",
        "Idefics3ForConditionalGeneration",
    ),
    model_type="llama",
    model_types=("smolvlm", "idefics3"),
    metadata=metadata,
    optional=frozenset(
        f"{part}.bias"
        for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    ),
    defaults={
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    },
    fixed={
        "hidden_act": ("silu", "swish"),
        "rope_interleaved": (False,),
        "qk_layer_norms": (False,),
    },
    reads=VISION,
    skipped=(r"model\.vision_model\..*", r"model\.connector\..*"),
    bias_flags={
        "attention_bias": ("attn_q", "attn_k", "attn_v", "attn_output"),
        "mlp_bias": ("ffn_gate", "ffn_up", "ffn_down"),
    },
    rope_types=frozenset({"default", "linear", "yarn", "llama3"}),
    rotate_half=True,
    extra=extra,
)

"""Tiny random models that see, as classes of transformers with configs of theirs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from helpers import tiny_dense
from helpers.tiny_hybrid import QWEN35
from helpers.tiny_recipe import SMALL

SIDE = 56
_SIGLIP = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": 14,
}
TEXT = SMALL | {"tie_word_embeddings": True}


def _gemma3() -> Any:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = TEXT | {"head_dim": 64, "query_pre_attn_scalar": 64, "sliding_window": 32}
    return Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config=text,
            vision_config={**_SIGLIP, "vision_use_head": False},
            mm_tokens_per_image=4,
            image_token_index=500,
            boi_token_index=501,
            eoi_token_index=502,
        )
    )


def _gemma4() -> Any:
    """Everything on: limits of matrices, a scale of what is pooled, embeddings per layer."""
    import torch
    from transformers import Gemma4Config, Gemma4ForConditionalGeneration

    text = TEXT | {
        "num_hidden_layers": 5,
        "num_key_value_heads": 1,
        "head_dim": 64,
        "global_head_dim": 128,
        "hidden_size_per_layer_input": 32,
        "vocab_size_per_layer_input": 512,
        "num_kv_shared_layers": 1,
        "sliding_window": 32,
        "layer_types": ["sliding_attention", "full_attention"] * 2 + ["full_attention"],
        "use_bidirectional_attention": "vision",
        "pad_token_id": 0,
    }
    model = Gemma4ForConditionalGeneration(
        Gemma4Config(
            text_config=text,
            vision_config={
                "hidden_size": 64,
                "intermediate_size": 160,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "num_key_value_heads": 4,
                "head_dim": 16,
                "patch_size": 4,
                "position_embedding_size": 80,
                "use_clipped_linears": True,
                "standardize": True,
            },
            audio_config=None,
            image_token_id=511,
            boi_token_id=509,
            eoi_token_id=510,
        )
    )
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith(("put_min", "put_max")):
                buffer.fill_((2.0 + torch.rand(())) * (1 if name.endswith("max") else -1))
            elif name.endswith(("std_bias", "std_scale")):
                buffer.copy_(torch.rand_like(buffer) + 0.5)
    return model


def _idefics3() -> Any:
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

    return SmolVLMForConditionalGeneration(
        SmolVLMConfig(
            text_config=TEXT | {"model_type": "llama"},
            vision_config=_SIGLIP,
            scale_factor=2,
            image_token_id=500,
            tie_word_embeddings=True,
        )
    )


_MROPE = {
    "rope_type": "default",
    "rope_theta": 1e5,
    "mrope_section": [11, 11, 10],
    "mrope_interleaved": True,
}
_QWEN_TOWER = {
    "depth": 3,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_heads": 4,
    "num_position_embeddings": 16,
    "out_hidden_size": TEXT["hidden_size"],
}
_QWEN_IDS = {
    "vision_start_token_id": 509,
    "vision_end_token_id": 510,
    "image_token_id": 511,
    "video_token_id": 508,
    "tie_word_embeddings": True,
}


def _qwen3vl() -> Any:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    return Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(
            text_config=TEXT | {"head_dim": 64, "rope_parameters": _MROPE},
            vision_config=_QWEN_TOWER | {"deepstack_visual_indexes": [0, 2]},
            **_QWEN_IDS,
        )
    )


def _qwen3vlmoe() -> Any:
    from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

    experts = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 96}
    return Qwen3VLMoeForConditionalGeneration(
        Qwen3VLMoeConfig(
            text_config=TEXT | experts | {"head_dim": 64, "rope_parameters": _MROPE},
            vision_config=_QWEN_TOWER | {"deepstack_visual_indexes": [0, 2]},
            **_QWEN_IDS,
        )
    )


def _qwen35() -> Any:
    from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

    return Qwen3_5ForConditionalGeneration(
        Qwen3_5Config(
            text_config=TEXT | QWEN35,
            vision_config=_QWEN_TOWER,
            **_QWEN_IDS,
        )
    )


def _qwen35moe() -> Any:
    from transformers import Qwen3_5MoeConfig, Qwen3_5MoeForConditionalGeneration

    experts = {
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 96,
        "shared_expert_intermediate_size": 160,
    }
    return Qwen3_5MoeForConditionalGeneration(
        Qwen3_5MoeConfig(
            text_config=TEXT | QWEN35 | experts,
            vision_config=_QWEN_TOWER,
            **_QWEN_IDS,
        )
    )


def _mistral3() -> Any:
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    text = TEXT | {
        "model_type": "ministral3",
        "rms_norm_eps": 1e-5,
        "head_dim": 64,
        "tie_word_embeddings": False,
        "rope_parameters": tiny_dense.RECIPES["ministral3"].values["rope_parameters"],
    }
    return Mistral3ForConditionalGeneration(
        Mistral3Config(
            text_config=text,
            vision_config={
                "model_type": "pixtral",
                "hidden_size": 64,
                "intermediate_size": 160,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "image_size": 112,
                "patch_size": 14,
                "hidden_act": "silu",
                "head_dim": 16,
            },
            image_token_index=509,
            tie_word_embeddings=False,
        )
    )


MODELS: dict[str, Callable[[], Any]] = {
    "gemma3": _gemma3,
    "gemma4": _gemma4,
    "idefics3": _idefics3,
    "mistral3": _mistral3,
    "qwen35": _qwen35,
    "qwen35moe": _qwen35moe,
    "qwen3vl": _qwen3vl,
    "qwen3vlmoe": _qwen3vlmoe,
}

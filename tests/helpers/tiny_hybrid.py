"""Tiny models with experts, states or convolutions."""

from __future__ import annotations

from helpers.tiny_recipe import Recipe

QWEN35 = {
    "num_hidden_layers": 5,
    "head_dim": 64,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "layer_types": [
        "linear_attention",
        "full_attention",
        "linear_attention",
        "linear_attention",
        "full_attention",
    ],
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1e6,
        "partial_rotary_factor": 0.25,
        "mrope_section": [3, 3, 2],
        "mrope_interleaved": True,
    },
}

GRANITE = {
    "attention_multiplier": 0.1,
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "logits_scaling": 2.5,
}
GRANITE_HYBRID = GRANITE | {
    "num_hidden_layers": 4,
    "layer_types": ["mamba", "attention", "mamba", "mamba"],
    "mamba_n_heads": 8,
    "mamba_d_head": 64,
    "mamba_n_groups": 2,
    "mamba_d_state": 32,
    "mamba_chunk_size": 64,
}

RECIPES: dict[str, Recipe] = {
    "lfm2": Recipe(
        "lfm2",
        "Lfm2ForCausalLM",
        "Lfm2Config",
        {
            "num_hidden_layers": 4,
            "layer_types": ["conv", "full_attention", "conv", "full_attention"],
            "block_multiple_of": 32,
            "tie_word_embeddings": True,
        },
        tokenizer="llama-bpe",
        long=300,
    ),
    "qwen35": Recipe(
        "qwen35",
        "Qwen3_5ForCausalLM",
        "Qwen3_5TextConfig",
        QWEN35,
        tokenizer="qwen2",
        long=300,
        noise=3.0,
        next_tokens=True,
    ),
    "qwen35-moe": Recipe(
        "qwen35moe",
        "Qwen3_5MoeForCausalLM",
        "Qwen3_5MoeTextConfig",
        QWEN35
        | {
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 96,
            "shared_expert_intermediate_size": 160,
        },
        tokenizer="qwen2",
        long=300,
        noise=6.0,
        next_tokens=True,
        routed=True,
    ),
    "qwen3-moe": Recipe(
        "qwen3moe",
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        {
            "head_dim": 96,
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 96,
            "norm_topk_prob": True,
        },
        tokenizer="qwen2",
        routed=True,
    ),
    "lfm2-moe": Recipe(
        "lfm2moe",
        "Lfm2MoeForCausalLM",
        "Lfm2MoeConfig",
        {
            "num_hidden_layers": 4,
            "layer_types": ["conv", "full_attention", "conv", "full_attention"],
            "num_dense_layers": 1,
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 96,
            "tie_word_embeddings": True,
        },
        tokenizer="llama-bpe",
        long=300,
        routed=True,
    ),
    "mixtral": Recipe(
        "mixtral",
        "MixtralForCausalLM",
        "MixtralConfig",
        {"num_local_experts": 6, "intermediate_size": 96},
        routed=True,
    ),
    "olmoe": Recipe(
        "olmoe",
        "OlmoeForCausalLM",
        "OlmoeConfig",
        {
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "intermediate_size": 96,
            "num_key_value_heads": 4,
        },
        tokenizer="qwen2",
        routed=True,
    ),
    "qwen2-moe": Recipe(
        "qwen2moe",
        "Qwen2MoeForCausalLM",
        "Qwen2MoeConfig",
        {
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 96,
            "shared_expert_intermediate_size": 160,
        },
        tokenizer="qwen2",
        routed=True,
    ),
    "granite-moe": Recipe(
        "granitemoe",
        "GraniteMoeForCausalLM",
        "GraniteMoeConfig",
        GRANITE | {"num_local_experts": 6, "num_experts_per_tok": 2, "intermediate_size": 96},
        tokenizer="qwen2",
        routed=True,
    ),
    "granite-moe-shared": Recipe(
        "granitemoe",
        "GraniteMoeSharedForCausalLM",
        "GraniteMoeSharedConfig",
        GRANITE
        | {
            "num_local_experts": 6,
            "num_experts_per_tok": 2,
            "intermediate_size": 96,
            "shared_intermediate_size": 160,
        },
        tokenizer="qwen2",
        routed=True,
    ),
    "granite-hybrid": Recipe(
        "granitehybrid",
        "GraniteMoeHybridForCausalLM",
        "GraniteMoeHybridConfig",
        GRANITE_HYBRID | {"num_local_experts": 0, "shared_intermediate_size": 320},
        tokenizer="qwen2",
        long=300,
    ),
    "granite-hybrid-moe": Recipe(
        "granitehybrid",
        "GraniteMoeHybridForCausalLM",
        "GraniteMoeHybridConfig",
        GRANITE_HYBRID
        | {
            "num_local_experts": 6,
            "num_experts_per_tok": 2,
            "intermediate_size": 96,
            "shared_intermediate_size": 160,
        },
        tokenizer="qwen2",
        long=300,
        routed=True,
    ),
    "granite4": Recipe(
        "granite4",
        "GraniteMoeHybridForCausalLM",
        "GraniteMoeHybridConfig",
        GRANITE_HYBRID
        | {
            "num_local_experts": 0,
            "shared_intermediate_size": 320,
            "layer_types": ["attention"] * 4,
            "position_embedding_type": "rope",
        },
        tokenizer="qwen2",
    ),
    "gpt-oss": Recipe(
        "gpt_oss",
        "GptOssForCausalLM",
        "GptOssConfig",
        {
            "num_hidden_layers": 4,
            "head_dim": 64,
            "intermediate_size": 96,
            "num_local_experts": 6,
            "num_experts_per_tok": 2,
            "sliding_window": 64,
            "rope_parameters": {"rope_type": "default", "rope_theta": 150000.0},
        },
        tokenizer="gpt-4o",
        routed=True,
    ),
}

"""Tiny models whose layers all attend and have one feed-forward part."""

from __future__ import annotations

from helpers.tiny_recipe import SMALL, Recipe

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
GEMMA = {
    "head_dim": 64,
    "query_pre_attn_scalar": 64,
    "sliding_window": 32,
    "tie_word_embeddings": True,
}
PHI_FACTORS = {
    "rope_type": "longrope",
    "short_factor": [1.0 + 0.01 * i for i in range(24)],
    "long_factor": [1.0 + 0.3 * i for i in range(24)],
}

QUARTER = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25}

RECIPES: dict[str, Recipe] = {
    "llama": Recipe("llama", "LlamaForCausalLM", "LlamaConfig"),
    "llama-bias": Recipe(
        "llama", "LlamaForCausalLM", "LlamaConfig", {"attention_bias": True, "mlp_bias": True}
    ),
    "llama3": Recipe(
        "llama",
        "LlamaForCausalLM",
        "LlamaConfig",
        {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True, "head_dim": 64},
        tokenizer="llama-bpe",
    ),
    "llama-linear": Recipe(
        "llama",
        "LlamaForCausalLM",
        "LlamaConfig",
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6}},
    ),
    "smollm": Recipe(
        "llama",
        "LlamaForCausalLM",
        "LlamaConfig",
        {"tie_word_embeddings": True},
        tokenizer="smollm",
    ),
    "mistral": Recipe("mistral", "MistralForCausalLM", "MistralConfig", {"sliding_window": None}),
    "mistral-nemo": Recipe(
        "mistral",
        "MistralForCausalLM",
        "MistralConfig",
        {"sliding_window": None, "head_dim": 48, "num_attention_heads": 8},
        tokenizer="tekken",
    ),
    "mistral-window": Recipe(
        "mistral", "MistralForCausalLM", "MistralConfig", {"sliding_window": 64}, window_lost=True
    ),
    "qwen2": Recipe("qwen2", "Qwen2ForCausalLM", "Qwen2Config", tokenizer="qwen2"),
    "qwen2-yarn": Recipe(
        "qwen2",
        "Qwen2ForCausalLM",
        "Qwen2Config",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "rope_theta": 1e6,
                "original_max_position_embeddings": 256,
            }
        },
        tokenizer="qwen2",
    ),
    "qwen3": Recipe(
        "qwen3",
        "Qwen3ForCausalLM",
        "Qwen3Config",
        {"head_dim": 96, "tie_word_embeddings": True},
        tokenizer="qwen2",
    ),
    "qwen3vl": Recipe(
        "qwen3vl",
        "Qwen3VLForConditionalGeneration",
        "Qwen3VLConfig",
        {
            "text_config": SMALL
            | {
                "head_dim": 64,
                "tie_word_embeddings": True,
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 1e5,
                    "mrope_section": [11, 11, 10],
                    "mrope_interleaved": True,
                },
            },
            "vision_config": {
                "depth": 2,
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_heads": 2,
                "num_position_embeddings": 16,
                "out_hidden_size": 256,
                "deepstack_visual_indexes": [0, 1],
            },
            "tie_word_embeddings": True,
        },
        tokenizer="qwen2",
    ),
    "smollm3": Recipe(
        "smollm3",
        "SmolLM3ForCausalLM",
        "SmolLM3Config",
        {"num_hidden_layers": 5, "tie_word_embeddings": True},
        tokenizer="llama-bpe",
    ),
    "granite": Recipe(
        "granite",
        "GraniteForCausalLM",
        "GraniteConfig",
        {
            "attention_multiplier": 0.1,
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.22,
            "logits_scaling": 2.5,
        },
        tokenizer="qwen2",
    ),
    "olmo2": Recipe("olmo2", "Olmo2ForCausalLM", "Olmo2Config", tokenizer="qwen2"),
    "olmo3": Recipe(
        "olmo2",
        "Olmo3ForCausalLM",
        "Olmo3Config",
        {
            "num_hidden_layers": 4,
            "sliding_window": 64,
            "rope_parameters": {
                "full_attention": {
                    "rope_type": "yarn",
                    "rope_theta": 1e4,
                    "factor": 4.0,
                    "original_max_position_embeddings": 256,
                },
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
        tokenizer="qwen2",
    ),
    "ernie": Recipe("ernie4_5", "Ernie4_5ForCausalLM", "Ernie4_5Config", {"head_dim": 64}),
    "hunyuan": Recipe(
        "hunyuan",
        "HunYuanDenseV1ForCausalLM",
        "HunYuanDenseV1Config",
        {
            "head_dim": 64,
            "rope_parameters": {
                "rope_type": "dynamic",
                "rope_theta": 1e4,
                "factor": 1.0,
                "alpha": 1e3,
            },
        },
        tokenizer="qwen2",
    ),
    "exaone4": Recipe(
        "exaone4",
        "Exaone4ForCausalLM",
        "Exaone4Config",
        {
            "sliding_window": None,
            "layer_types": ["full_attention"] * 3,
            "rope_parameters": LLAMA3_ROPE,
        },
        tokenizer="qwen2",
    ),
    "ministral3": Recipe(
        "ministral3",
        "Ministral3ForCausalLM",
        "Ministral3Config",
        {
            "head_dim": 64,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1e6,
                "factor": 16.0,
                "original_max_position_embeddings": 64,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "llama_4_scaling_beta": 0.1,
            },
        },
        tokenizer="tekken",
    ),
    "gemma2": Recipe(
        "gemma2", "Gemma2ForCausalLM", "Gemma2Config", GEMMA | {"num_hidden_layers": 4}
    ),
    "gemma3": Recipe(
        "gemma3", "Gemma3ForCausalLM", "Gemma3TextConfig", GEMMA | {"num_hidden_layers": 7}
    ),
    "gemma3-pattern": Recipe(
        "gemma3",
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        GEMMA
        | {
            "num_hidden_layers": 4,
            "layer_types": [
                "sliding_attention",
                "full_attention",
                "sliding_attention",
                "full_attention",
            ],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
    "gemma3n": Recipe(
        "gemma3n",
        "Gemma3nForCausalLM",
        "Gemma3nTextConfig",
        {
            "num_hidden_layers": 22,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "num_kv_shared_layers": 2,
            "vocab_size_per_layer_input": 500,
            "sliding_window": 32,
            "tie_word_embeddings": True,
        },
        heads=0.3,
        noise=10.0,
        deviation_of_sample=True,
    ),
    "gemma4": Recipe(
        "gemma4",
        "Gemma4ForCausalLM",
        "Gemma4TextConfig",
        {
            "num_hidden_layers": 7,
            "num_key_value_heads": 1,
            "head_dim": 64,
            "global_head_dim": 128,
            "hidden_size_per_layer_input": 32,
            "vocab_size_per_layer_input": 512,
            "num_kv_shared_layers": 2,
            "use_double_wide_mlp": True,
            "sliding_window": 32,
            "final_logit_softcapping": 30.0,
            "layer_types": ["sliding_attention"] + ["sliding_attention", "full_attention"] * 3,
            "tie_word_embeddings": True,
        },
        heads=0.3,
    ),
    "gemma4-wide": Recipe(
        "gemma4",
        "Gemma4ForCausalLM",
        "Gemma4TextConfig",
        {
            "num_hidden_layers": 4,
            "head_dim": 64,
            "global_head_dim": 128,
            "num_global_key_value_heads": 1,
            "attention_k_eq_v": True,
            "hidden_size_per_layer_input": 0,
            "sliding_window": 32,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "tie_word_embeddings": True,
        },
        heads=0.3,
    ),
    "gemma4-unified": Recipe(
        "gemma4",
        "Gemma4UnifiedForConditionalGeneration",
        "Gemma4UnifiedConfig",
        {
            "text_config": SMALL
            | {
                "pad_token_id": 0,
                "num_hidden_layers": 4,
                "head_dim": 64,
                "global_head_dim": 128,
                "num_global_key_value_heads": 1,
                "attention_k_eq_v": True,
                "sliding_window": 32,
                "layer_types": ["sliding_attention", "full_attention"] * 2,
                "tie_word_embeddings": True,
            },
            "vision_config": {"patch_size": 4, "mm_embed_dim": 64, "output_proj_dims": 64},
            "audio_config": None,
        },
        heads=0.3,
    ),
    "phi3": Recipe("phi3", "Phi3ForCausalLM", "Phi3Config", {"sliding_window": None}),
    "phi3-window": Recipe(
        "phi3", "Phi3ForCausalLM", "Phi3Config", {"sliding_window": 64}, window_lost=True
    ),
    "phi4-mini": Recipe(
        "phi3",
        "Phi3ForCausalLM",
        "Phi3Config",
        {
            "sliding_window": None,
            "tie_word_embeddings": True,
            "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 256,
            "rope_parameters": PHI_FACTORS | {"rope_theta": 10000.0, "partial_rotary_factor": 0.75},
        },
        tokenizer="gpt-4o",
        long=300,
    ),
    "phi2": Recipe(
        "phi2",
        "PhiForCausalLM",
        "PhiConfig",
        {
            "num_key_value_heads": 4,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "partial_rotary_factor": 0.5,
            },
        },
        tokenizer="qwen2",
        noise=3.0,
        gelu=True,
    ),
    "stablelm": Recipe(
        "stablelm",
        "StableLmForCausalLM",
        "StableLmConfig",
        {"use_qkv_bias": True, "rope_parameters": QUARTER},
        tokenizer="qwen2",
    ),
    "stablelm-parallel": Recipe(
        "stablelm",
        "StableLmForCausalLM",
        "StableLmConfig",
        {"use_parallel_residual": True, "rope_parameters": QUARTER},
        tokenizer="qwen2",
    ),
}

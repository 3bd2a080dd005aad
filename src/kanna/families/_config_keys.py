"""Keys of config.json that mean the same in every family.

Each key of a source's config is read by kanna, one of these, or of its family alone; whatever is
left is said. Docs: docs/config.md is made from these tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

READ = frozenset(
    {
        "architectures",
        "head_dim",
        "hidden_size",
        "intermediate_size",
        "max_position_embeddings",
        "model_type",
        "num_attention_heads",
        "num_hidden_layers",
        "num_key_value_heads",
        "original_max_position_embeddings",
        "partial_rotary_factor",
        "quantization_config",
        "rms_norm_eps",
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "text_config",
        "tie_word_embeddings",
        "vocab_size",
    }
)
"""Read for every family."""

NULLABLE = frozenset(
    {
        "attn_logit_softcapping",
        "final_logit_softcapping",
        "num_key_value_heads",
        "sliding_window",
        "use_bidirectional_attention",
    }
)
"""Keys whose null means none, where their absence means the default of the family."""

SYNONYMS: Mapping[str, str] = {
    "num_local_experts": "num_experts",
    "n_routed_experts": "num_experts",
}
"""Keys that mean the same as another, which is read in their place."""

NEUTRAL: Mapping[str, tuple[str, ...]] = {
    "names and versions": (
        "_name_or_path",
        "is_llama_config",
        "license",
        "model_name",
        "name_or_path",
        "tokenizer_class",
        "torch_dtype",
        "dtype",
        "transformers.js_config",
        "transformers_version",
        "unsloth_fixed",
        "unsloth_version",
    ),
    "training alone": (
        "attention_dropout",
        "classifier_dropout",
        "embd_pdrop",
        "gradient_checkpointing",
        "hidden_dropout",
        "hidden_dropout_prob",
        "initializer_factor",
        "initializer_range",
        "pretraining_tp",
        "resid_pdrop",
        "router_aux_loss_coef",
        "router_jitter_noise",
    ),
    "how transformers runs it": (
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_experts_implementation",
        "attn_implementation",
        "cache_implementation",
        "output_attentions",
        "output_hidden_states",
        "return_dict",
        "tf_legacy_loss",
        "torchscript",
        "use_bfloat16",
        "use_cache",
    ),
    "tokens, which the tokenizer's files name": (
        "bos_token_id",
        "decoder_start_token_id",
        "eos_token_id",
        "pad_token_id",
        "sep_token_id",
        "unk_token_id",
    ),
    "how text is generated, which generation_config.json says": (
        "bad_words_ids",
        "begin_suppress_tokens",
        "diversity_penalty",
        "do_sample",
        "early_stopping",
        "encoder_no_repeat_ngram_size",
        "exponential_decay_length_penalty",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "length_penalty",
        "max_length",
        "max_new_tokens",
        "min_length",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_return_sequences",
        "output_scores",
        "remove_invalid_values",
        "repetition_penalty",
        "return_dict_in_generate",
        "suppress_tokens",
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
    ),
    "heads for classes, which are not converted": (
        "finetuning_task",
        "id2label",
        "label2id",
        "num_labels",
        "prefix",
        "problem_type",
        "task_specific_params",
    ),
    "the same values computed in other parts": ("chunk_size_feed_forward",),
}
"""Keys that change nothing of what the network computes, by what they are for."""

ONLY: Mapping[str, tuple[Any, ...]] = {
    "add_cross_attention": (False,),
    "alibi": (False,),
    "attention_multiplier": (),
    "attn_logit_softcapping": (),
    "block_configs": (),
    "clip_qkv": (),
    "cross_attention_hidden_size": (),
    "embedding_multiplier": (1,),
    "final_logit_softcapping": (),
    "full_attn_mod": (1,),
    "interpolate_factor": (1,),
    "is_decoder": (False, True),
    "is_encoder_decoder": (False,),
    "layer_types": (),
    "lm_head_bias": (False,),
    "logit_scale": (1,),
    "logits_scaling": (1,),
    "mlp_bias": (False,),
    "n_routed_experts": (0,),
    "no_rope_layer_interval": (0,),
    "no_rope_layers": (),
    "num_experts": (0,),
    "num_local_experts": (0,),
    "parallel_attn": (False,),
    "per_layer_config": ({},),
    "pruned_heads": ({},),
    "qk_layernorm": (False,),
    "residual_multiplier": (1,),
    "rope_interleaved": (False,),
    "rotary_pct": (1,),
    "scale_depth": (),
    "scale_emb": (1,),
    "tie_encoder_decoder": (False,),
    "use_mrope": (False,),
    "use_parallel_residual": (False,),
    "use_qk_norm": (False,),
}
"""Keys that change the computation of some models, and the values that change nothing (null never
does). Where a family does not read the key, any other value is refused.
"""


def neutral() -> frozenset[str]:
    """Every key of NEUTRAL."""
    return frozenset(key for keys in NEUTRAL.values() for key in keys)

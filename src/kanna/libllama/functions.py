"""Prototypes of the functions of llama.h and ggml.h that kanna calls."""

from __future__ import annotations

import ctypes
from typing import Any

from kanna.libllama.structures import Batch, HeaderLayout, SamplerChainParameters

LOG_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
"""ggml_log_callback: level, text, what was given with the callback."""

_HANDLE, _TEXT, _INT, _BOOL = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32, ctypes.c_bool
_SIZE, _FLOAT, _TOKENS = ctypes.c_size_t, ctypes.c_float, ctypes.POINTER(ctypes.c_int32)
_FLOATS = ctypes.POINTER(ctypes.c_float)

# Name → what it returns, what it takes.
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "llama_backend_init": (None, ()),
    "llama_log_set": (None, (LOG_CALLBACK, ctypes.c_void_p)),
    "llama_print_system_info": (_TEXT, ()),
    "llama_supports_gpu_offload": (_BOOL, ()),
    "llama_version": (_TEXT, ()),
    # models
    "llama_model_free": (None, (_HANDLE,)),
    "llama_model_get_vocab": (_HANDLE, (_HANDLE,)),
    "llama_model_chat_template": (_TEXT, (_HANDLE, _TEXT)),
    "llama_model_is_hybrid": (_BOOL, (_HANDLE,)),
    "llama_model_is_recurrent": (_BOOL, (_HANDLE,)),
    "llama_model_n_ctx_train": (_INT, (_HANDLE,)),
    "llama_model_n_params": (ctypes.c_uint64, (_HANDLE,)),
    "llama_model_n_swa": (_INT, (_HANDLE,)),
    # vocabularies
    "llama_vocab_n_tokens": (_INT, (_HANDLE,)),
    "llama_vocab_bos": (_INT, (_HANDLE,)),
    "llama_vocab_eos": (_INT, (_HANDLE,)),
    "llama_vocab_get_add_bos": (_BOOL, (_HANDLE,)),
    "llama_vocab_is_eog": (_BOOL, (_HANDLE, _INT)),
    "llama_tokenize": (_INT, (_HANDLE, _TEXT, _INT, _TOKENS, _INT, _BOOL, _BOOL)),
    "llama_token_to_piece": (_INT, (_HANDLE, _INT, _TEXT, _INT, _INT, _BOOL)),
    # contexts
    "llama_free": (None, (_HANDLE,)),
    "llama_n_ctx": (ctypes.c_uint32, (_HANDLE,)),
    "llama_n_batch": (ctypes.c_uint32, (_HANDLE,)),
    "llama_get_memory": (_HANDLE, (_HANDLE,)),
    "llama_memory_clear": (None, (_HANDLE, _BOOL)),
    "llama_memory_seq_rm": (_BOOL, (_HANDLE, _INT, _INT, _INT)),
    "llama_batch_init": (Batch, (_INT, _INT, _INT)),
    "llama_batch_get_one": (Batch, (_TOKENS, _INT)),
    "llama_batch_free": (None, (Batch,)),
    "llama_decode": (_INT, (_HANDLE, Batch)),
    "llama_get_logits": (_FLOATS, (_HANDLE,)),
    "llama_get_logits_ith": (_FLOATS, (_HANDLE, _INT)),
    # vectors of texts
    "llama_model_n_embd": (_INT, (_HANDLE,)),
    "llama_pooling_type": (ctypes.c_int, (_HANDLE,)),
    "llama_get_embeddings_seq": (_FLOATS, (_HANDLE, _INT)),
    # adapters
    "llama_adapter_lora_init": (_HANDLE, (_HANDLE, _TEXT)),
    "llama_set_adapters_lora": (
        _INT,
        (_HANDLE, ctypes.POINTER(ctypes.c_void_p), _SIZE, ctypes.POINTER(ctypes.c_float)),
    ),
    # samplers
    "llama_sampler_chain_default_params": (SamplerChainParameters, ()),
    "llama_sampler_chain_init": (_HANDLE, (SamplerChainParameters,)),
    "llama_sampler_chain_add": (None, (_HANDLE, _HANDLE)),
    "llama_sampler_init_greedy": (_HANDLE, ()),
    "llama_sampler_init_dist": (_HANDLE, (ctypes.c_uint32,)),
    "llama_sampler_init_top_k": (_HANDLE, (_INT,)),
    "llama_sampler_init_top_p": (_HANDLE, (_FLOAT, _SIZE)),
    "llama_sampler_init_min_p": (_HANDLE, (_FLOAT, _SIZE)),
    "llama_sampler_init_temp": (_HANDLE, (_FLOAT,)),
    "llama_sampler_sample": (_INT, (_HANDLE, _HANDLE, _INT)),
    "llama_sampler_free": (None, (_HANDLE,)),
}

# ggml_quantize_chunk(type, values, out, first value, rows, columns, importance).
_QUANTIZERS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "ggml_quantize_init": (None, (_INT,)),
    "ggml_quantize_chunk": (
        _SIZE,
        (_INT, _HANDLE, _HANDLE, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, _HANDLE),
    ),
}

# ggml's registry of backends, and where a tensor lies. In the library itself or one that it needs.
_REGISTRY: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "ggml_backend_load_all_from_path": (None, (_TEXT,)),
    "ggml_backend_dev_count": (_SIZE, ()),
    "ggml_backend_dev_get": (_HANDLE, (_SIZE,)),
    "ggml_backend_dev_name": (_TEXT, (_HANDLE,)),
    "ggml_backend_dev_description": (_TEXT, (_HANDLE,)),
    "ggml_backend_dev_type": (ctypes.c_int, (_HANDLE,)),
    "ggml_backend_dev_memory": (
        None,
        (_HANDLE, ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(ctypes.c_size_t)),
    ),
    "ggml_backend_dev_backend_reg": (_HANDLE, (_HANDLE,)),
    "ggml_backend_reg_name": (_TEXT, (_HANDLE,)),
    "ggml_backend_buffer_name": (_TEXT, (_HANDLE,)),
    "ggml_backend_buffer_is_host": (_BOOL, (_HANDLE,)),
    "ggml_get_name": (_TEXT, (_HANDLE,)),
    "ggml_op_desc": (_TEXT, (_HANDLE,)),
}

EVALUATION_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_bool, ctypes.c_void_p, ctypes.c_bool, ctypes.c_void_p
)
"""ggml_backend_sched_eval_callback: a tensor that is computed next, whether it is only asked for,
what was given with the callback; returns whether the tensor is wanted, or whether to go on."""


def declare(library: ctypes.CDLL, layout: HeaderLayout) -> None:
    """Give every function of llama.h its types; AttributeError where the library lacks one.

    Args:
        library: The library.
        layout: What its parameter structures look like.
    """
    parameters = {
        "llama_model_default_params": (layout.model, ()),
        "llama_model_load_from_file": (_HANDLE, (_TEXT, layout.model)),
        "llama_context_default_params": (layout.context, ()),
        "llama_init_from_model": (_HANDLE, (_HANDLE, layout.context)),
    }
    _declare(library, _FUNCTIONS | parameters)


def declare_quantizers(library: ctypes.CDLL) -> None:
    """Give ggml's encoders their types; AttributeError where the library lacks one."""
    _declare(library, _QUANTIZERS)


def declare_registry(library: ctypes.CDLL) -> None:
    """Give ggml's registry of backends its types; AttributeError where the library lacks it."""
    _declare(library, _REGISTRY)


def _declare(library: ctypes.CDLL, functions: dict[str, tuple[Any, tuple[Any, ...]]]) -> None:
    for name, (result, arguments) in functions.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments

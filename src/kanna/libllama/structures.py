"""Parameter structures of llama.h, with the values that its default functions give them.

The structures change with llama.cpp's version, so there is one `HeaderLayout` per state of the
header. A library is used with the layout whose default values it gives (`interface.py`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_POINTER, _INT, _UINT, _FLOAT = ctypes.c_void_p, ctypes.c_int32, ctypes.c_uint32, ctypes.c_float
_BOOL, _SIZE = ctypes.c_bool, ctypes.c_size_t

# What a default is when it is a matter of the system: any value will do.
ANY = object()

Field = tuple[str, Any, object]
"""Name, type, and the value that the default function gives; ANY where it depends."""

# llama_model_params, the same since b10900.
_MODEL: tuple[Field, ...] = (
    ("devices", _POINTER, None),
    ("tensor_buft_overrides", _POINTER, None),
    ("n_gpu_layers", _INT, ANY),
    ("split_mode", _INT, 1),
    ("load_mode", _INT, -1),
    ("lazy_mode", _INT, 1),
    ("main_gpu", _INT, 0),
    ("tensor_split", _POINTER, None),
    ("progress_callback", _POINTER, None),
    ("progress_callback_user_data", _POINTER, None),
    ("kv_overrides", _POINTER, None),
    ("vocab_only", _BOOL, False),
    ("check_tensors", _BOOL, False),
    ("use_extra_bufts", _BOOL, True),
    ("no_host", _BOOL, False),
    ("no_alloc", _BOOL, False),
    ("load_mtp", _BOOL, False),
)

_CONTEXT_SIZES: tuple[Field, ...] = (
    ("n_ctx", _UINT, 512),
    ("n_batch", _UINT, 2048),
    ("n_ubatch", _UINT, 512),
    ("n_seq_max", _UINT, 1),
    ("n_rs_seq", _UINT, 0),
    ("n_outputs_max", _UINT, 0),
    ("n_outputs_max_per_seq", _UINT, 1),
    ("n_threads", _INT, 4),
    ("n_threads_batch", _INT, 4),
    ("ctx_type", _INT, 0),
    ("rope_scaling_type", _INT, -1),
    ("pooling_type", _INT, -1),
    ("attention_type", _INT, -1),
    ("flash_attn_type", _INT, -1),
    ("rope_freq_base", _FLOAT, 0.0),
    ("rope_freq_scale", _FLOAT, 0.0),
    ("yarn_ext_factor", _FLOAT, -1.0),
    ("yarn_attn_factor", _FLOAT, -1.0),
    ("yarn_beta_fast", _FLOAT, -1.0),
    ("yarn_beta_slow", _FLOAT, -1.0),
    ("yarn_orig_ctx", _UINT, 0),
    ("defrag_thold", _FLOAT, -1.0),
    ("cb_eval", _POINTER, None),
    ("cb_eval_user_data", _POINTER, None),
    ("type_k", _INT, 1),
    ("type_v", _INT, 1),
)

_CONTEXT_SWITCHES: tuple[Field, ...] = (
    ("abort_callback", _POINTER, None),
    ("abort_callback_data", _POINTER, None),
    ("embeddings", _BOOL, False),
    ("offload_kqv", _BOOL, True),
    ("no_perf", _BOOL, True),
    ("op_offload", _BOOL, True),
    ("swa_full", _BOOL, True),
    ("kv_unified", _BOOL, False),
    ("samplers", _POINTER, None),
    ("n_samplers", _SIZE, 0),
    ("ctx_other", _POINTER, None),
)


def _structure(name: str, fields: Sequence[Field]) -> type[ctypes.Structure]:
    return type(name, (ctypes.Structure,), {"_fields_": [(f, kind) for f, kind, _ in fields]})


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderLayout:
    """The parameter structures of one state of llama.h.

    Attributes:
        since: Builds of llama.cpp that have it, for messages.
        model_fields: llama_model_params.
        context_fields: llama_context_params.
        model: Its ctypes structure.
        context: Its ctypes structure.
    """

    since: str
    model_fields: tuple[Field, ...]
    context_fields: tuple[Field, ...]
    model: type[ctypes.Structure]
    context: type[ctypes.Structure]


def _layout(since: str, *inserted: Field) -> HeaderLayout:
    context = (*_CONTEXT_SIZES, *inserted, *_CONTEXT_SWITCHES)
    return HeaderLayout(
        since=since,
        model_fields=_MODEL,
        context_fields=context,
        model=_structure("ModelParameters", _MODEL),
        context=_structure("ContextParameters", context),
    )


LAYOUTS = (
    _layout("0.6 (b11548)", ("moe_cache_size", _SIZE, 0)),
    _layout("0.5 (llama-cpp-python 0.3.36)"),
)
"""Every state of the header that kanna knows, the newest first."""


class Batch(ctypes.Structure):
    """llama_batch: tokens to decode, each with its position, sequences and whether it has logits.

    It is the same in every layout.
    """

    _fields_ = (
        ("n_tokens", _INT),
        ("token", ctypes.POINTER(_INT)),
        ("embd", ctypes.POINTER(_FLOAT)),
        ("pos", ctypes.POINTER(_INT)),
        ("n_seq_id", ctypes.POINTER(_INT)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(_INT))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    )


class SamplerChainParameters(ctypes.Structure):
    """llama_sampler_chain_params."""

    _fields_ = (("no_perf", _BOOL),)

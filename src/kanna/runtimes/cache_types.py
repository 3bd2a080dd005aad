"""Types of cached keys and values in llama.cpp: one for both, or `KEYS:VALUES`."""

from __future__ import annotations

from typing import Any

from kanna import encodings
from kanna.errors import UsageError

CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
"""What llama-server takes as `--cache-type-k` and `--cache-type-v`."""

# Of llama_flash_attn_type in llama.h.
_FLASH_ATTENTION = 1


def cache_types(text: str) -> tuple[str, str]:
    """The types of keys and of values that `q8_0`, or `q8_0:q4_0`, stands for.

    Raises UsageError for types that llama.cpp does not have.
    """
    keys, colon, values = text.strip().lower().partition(":")
    pair = keys, values if colon else keys
    if not set(pair) <= set(CACHE_TYPES):
        raise UsageError(
            f"a cache of {text}",
            expected=f"a type of keys and values, or KEYS:VALUES, of {', '.join(CACHE_TYPES)}",
        )
    return pair


def cache_name(keys: str, values: str) -> str:
    """The two as one word: `q8_0` where they are the same, else `q8_0:q4_0`."""
    return keys if keys == values else f"{keys}:{values}"


def apply(params: Any, cache: str) -> None:
    """Put the types into parameters of a context."""
    keys, values = cache_types(cache)
    params.type_k, params.type_v = (encodings.get(name).ggml_type for name in (keys, values))
    if (keys, values) != ("f16", "f16"):  # values can be quantized in no other way
        params.flash_attn_type = _FLASH_ATTENTION

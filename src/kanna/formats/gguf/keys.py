"""Kinds of the metadata keys that kanna reads: checked once, when a file is opened.

Whoever asks a file for one of these keys gets a value of its kind, in the range given here. Keys
that nothing reads pass through as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from kanna._util.typed import (
    FLAG,
    LARGEST_COUNT,
    MOST_TEXT,
    FieldKind,
    either,
    number,
    shown,
    text,
    whole,
)
from kanna.errors import FormatError
from kanna.model import MetaValue, Tensor, ValueType, num_weights

MOST_LAYERS = 512
"""Of llama.cpp (LLAMA_MAX_LAYERS), where no tensor has the name of a layer."""
TOKENS = "tokenizer.ggml.tokens"
_AGAIN = "convert the model again, or fetch the file again"
_MOST_ID = (1 << 32) - 1
"""Where a file has no token of a kind, some have this in place of its id."""
_INTEGERS = {
    ValueType.U8,
    ValueType.I8,
    ValueType.U16,
    ValueType.I16,
    ValueType.U32,
    ValueType.I32,
    ValueType.U64,
    ValueType.I64,
}
_REALS = {ValueType.F32, ValueType.F64}
T = TypeVar("T")


def _scalar(kind: FieldKind[T], types: set[ValueType]) -> FieldKind[MetaValue]:
    """One value of some GGUF types."""

    def convert(entry: object) -> MetaValue | None:
        assert isinstance(entry, MetaValue)
        return entry if entry.type in types and kind.convert(entry.value) is not None else None

    return FieldKind(kind.words, convert)


def _array(words: str, items: set[ValueType], holds: Callable[[Any], bool]) -> FieldKind[MetaValue]:
    """An array of some GGUF types, for whose values `holds` is true."""

    def convert(entry: object) -> MetaValue | None:
        assert isinstance(entry, MetaValue)
        right = entry.type is ValueType.ARRAY and entry.item in items
        return entry if right and holds(entry.value) else None

    return FieldKind(words, convert)


def _within(low: int, high: int) -> Callable[[Any], bool]:
    """Whether an array has values, all from `low` to `high`."""
    return lambda values: bool(
        len(values) and low <= int(values.min()) and int(values.max()) <= high
    )


def _whole(low: int = 0, high: int = LARGEST_COUNT) -> FieldKind[MetaValue]:
    return _scalar(whole(low, high), _INTEGERS)


def _number(low: float | None = None) -> FieldKind[MetaValue]:
    return _scalar(number() if low is None else number(low), _REALS | _INTEGERS)


def _words(most: int = MOST_TEXT, least: int = 0) -> FieldKind[MetaValue]:
    return _scalar(text(most, least), {ValueType.STR})


def _free_text(entry: object) -> MetaValue | None:
    """A text for people: characters that are none are replaced, as whoever shows it must."""
    assert isinstance(entry, MetaValue)
    if entry.type is not ValueType.STR or len(entry.value) > MOST_TEXT:
        return None
    if entry.value.isascii():
        return entry
    return replace(
        entry, value=entry.value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    )


_COUNT, _ID, _FLAG = _whole(), _whole(0, _MOST_ID), _scalar(FLAG, {ValueType.BOOL})
_PER_LAYER = either(_COUNT, _array("one per layer", _INTEGERS, _within(0, LARGEST_COUNT)))
_PATTERN = _array("one per layer", {ValueType.BOOL, *_INTEGERS}, lambda values: len(values) > 0)
_NAME = _words(64, 1)
_FREE = FieldKind("a text", _free_text)
_TEXTS = _array("an array of texts", {ValueType.STR}, lambda _: True)
_ALIGNMENT = FieldKind("a power of two from 8 to 1048576", _whole(8, 1 << 20).convert)

GENERAL: Mapping[str, FieldKind[MetaValue]] = {
    "general.alignment": _ALIGNMENT,
    "general.architecture": _NAME,
    "general.base_model.count": _COUNT,
    "general.file_type": _COUNT,
    "general.languages": _TEXTS,
    "general.quantization_version": _COUNT,
    "general.sampling.mirostat": _scalar(whole(-LARGEST_COUNT), _INTEGERS),
    "general.sampling.penalty_last_n": _scalar(whole(-LARGEST_COUNT), _INTEGERS),
    "general.sampling.sequence": _words(),
    "general.sampling.top_k": _scalar(whole(-LARGEST_COUNT), _INTEGERS),
    "general.tags": _TEXTS,
    "general.type": _NAME,
    "imatrix.chunk_count": _COUNT,
    "imatrix.chunk_size": _COUNT,
    "imatrix.datasets": _TEXTS,
    "sentence_transformers.prompts.default": _words(),
    "sentence_transformers.prompts.names": _TEXTS,
    "sentence_transformers.prompts.texts": _TEXTS,
    "split.count": _whole(0, 99_999),
    "split.no": _whole(0, 99_999),
    "split.tensors.count": _COUNT,
    "tokenizer.chat_template": _words(),
    "tokenizer.chat_templates": _TEXTS,
    "tokenizer.ggml.merges": _TEXTS,
    "tokenizer.ggml.model": _NAME,
    "tokenizer.ggml.pre": _words(64),
    "tokenizer.ggml.scores": _array(
        "an array of numbers", _REALS, lambda values: bool(np.isfinite(values).all())
    ),
    "tokenizer.ggml.suppress_tokens": _array("an array of ids", _INTEGERS, lambda _: True),
    "tokenizer.ggml.token_type": _array(
        "an array of numbers from 0 to 6", _INTEGERS, _within(0, 6)
    ),
    TOKENS: _TEXTS,
}
"""By their whole name."""

PATTERNS: tuple[tuple[re.Pattern[str], FieldKind[MetaValue]], ...] = tuple(
    (re.compile(pattern), kind)
    for pattern, kind in (
        (r"general\.sampling\..+", _number()),
        (
            r"general\.(name|author|version|organization|finetune|basename|description"
            r"|quantized_by|size_label|license(\.name|\.link)?|url|repo_url|doi|uuid"
            r"|source\..+|base_model\.\d+\..+)",
            _FREE,
        ),
        (r"kanna\..+", either(_words(), either(_TEXTS, _number()))),
        (r"quantize\.imatrix\.(file|dataset)", _FREE),
        (r"quantize\.imatrix\..+", either(_COUNT, _FREE)),
        (r"tokenizer\.chat_template\..+", _words()),
        (r"tokenizer\.ggml\.\w+_token_id", _ID),
        (r"tokenizer\.ggml\.(add_\w+|remove_extra_whitespaces)", _FLAG),
    )
)
"""By a pattern of their name; the first that fits counts."""

OF_ARCHITECTURE: Mapping[str, FieldKind[MetaValue]] = {
    "attention.head_count": _PER_LAYER,
    "attention.head_count_kv": _PER_LAYER,
    "attention.key_length": _COUNT,
    "attention.key_length_swa": _COUNT,
    "attention.recurrent_layers": _PATTERN,
    "attention.scale": _number(),
    "attention.shared_kv_layers": _COUNT,
    "attention.sliding_window": _COUNT,
    "attention.sliding_window_pattern": either(_COUNT, _PATTERN),
    "attention.temperature_scale": _number(),
    "attention.value_length": _COUNT,
    "attention.value_length_swa": _COUNT,
    "attn_logit_softcapping": _number(),
    "block_count": _COUNT,
    "context_length": _COUNT,
    "embedding_length": _COUNT,
    "embedding_length_per_layer_input": _COUNT,
    "embedding_scale": _number(),
    "expert_count": _COUNT,
    "expert_feed_forward_length": _COUNT,
    "expert_used_count": _COUNT,
    "feed_forward_length": _PER_LAYER,
    "final_logit_softcapping": _number(),
    "full_attention_interval": _whole(1),
    "logit_scale": _number(),
    "n_deepstack_layers": _COUNT,
    "nextn_predict_layers": _COUNT,
    "residual_scale": _number(),
    "rope.dimension_count": _COUNT,
    "rope.dimension_count_swa": _COUNT,
    "rope.dimension_sections": _array("four counts", _INTEGERS, _within(0, LARGEST_COUNT)),
    "rope.freq_base": _number(0.0),
    "rope.freq_base_swa": _number(0.0),
    "rope.scaling.attn_factor": _number(),
    "rope.scaling.factor": _number(0.0),
    "rope.scaling.original_context_length": _COUNT,
    "rope.scaling.type": _words(64),
    "rope.scaling.yarn_beta_fast": _number(),
    "rope.scaling.yarn_beta_slow": _number(),
    "rope.scaling.yarn_log_multiplier": _number(),
    "shortconv.l_cache": _COUNT,
    "ssm.conv_kernel": _COUNT,
    "ssm.group_count": _COUNT,
    "ssm.inner_size": _COUNT,
    "ssm.state_size": _COUNT,
    "ssm.time_step_rank": _COUNT,
    "vocab_size": _COUNT,
}
"""By their name after that of the architecture."""
_LAYER = re.compile(r"\bblk\.(\d{1,6})\.")
_EPSILON = _number(0.0)
_WIDTHS = (
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.key_length_swa",
    "attention.value_length",
    "attention.value_length_swa",
    "embedding_length",
    "expert_count",
    "feed_forward_length",
    "rope.dimension_count",
)
"""Sizes of a model, none of which can be more than the weights it has."""


def kind_of(key: str, arch: str) -> FieldKind[MetaValue] | None:
    """The kind of a key; None: nothing reads it.

    Args:
        key: Of the metadata.
        arch: The architecture that the file names, or "".
    """
    if (kind := GENERAL.get(key)) is not None:
        return kind
    if arch and key.startswith(f"{arch}."):
        if key.endswith("_epsilon"):
            return _EPSILON
        return OF_ARCHITECTURE.get(key.removeprefix(f"{arch}."))
    return next((kind for pattern, kind in PATTERNS if pattern.fullmatch(key)), None)


def checked(metadata: Mapping[str, MetaValue]) -> dict[str, MetaValue]:
    """The metadata, each key that is read of its kind.

    Raises:
        FormatError: A value has the wrong type or lies outside its range.
    """
    named = metadata.get("general.architecture")
    arch = named.value if named is not None and isinstance(named.value, str) else ""
    values: dict[str, MetaValue] = {}
    for key, entry in metadata.items():
        kind = kind_of(key, arch)
        value = entry if kind is None else kind.convert(entry)
        if kind is not None and value is None:
            raise _wrong(key, entry, kind.words)
        values[key] = entry if value is None else value
    _check_lengths(values)
    return values


def _wrong(key: str, entry: MetaValue, words: str) -> FormatError:
    value = entry.value
    if entry.type is ValueType.ARRAY:
        item = entry.item.name.lower() if entry.item is not None else "?"
        return FormatError(f"{key} is an array of {len(value)} {item}", expected=words, todo=_AGAIN)
    return FormatError(f"{key} is {shown(value)}", expected=words, todo=_AGAIN)


def _check_lengths(metadata: Mapping[str, MetaValue]) -> None:
    """Raise FormatError unless every token has a type and a score, where there are any."""
    tokens = metadata.get(TOKENS)
    for key in ("tokenizer.ggml.token_type", "tokenizer.ggml.scores"):
        entry = metadata.get(key)
        if tokens is not None and entry is not None and len(entry.value) != len(tokens.value):
            raise FormatError(
                f"{key} has {len(entry.value)} values",
                expected=f"{len(tokens.value)}, one for every token",
                todo=_AGAIN,
            )


def check_sizes(metadata: Mapping[str, MetaValue], tensors: Mapping[str, Tensor]) -> None:
    """Raise FormatError for sizes of a model that its tensors cannot have.

    Args:
        metadata: What `checked` gave.
        tensors: Those of all parts of the file.
    """
    arch = metadata.get("general.architecture")
    if arch is None or not tensors:
        return
    entry = metadata.get(f"{arch.value}.block_count")
    named = [int(layer[1]) + 1 for name in tensors if (layer := _LAYER.search(name))]
    most = max(named, default=MOST_LAYERS)
    if entry is not None and entry.value > most:
        raise FormatError(
            f"{arch.value}.block_count is {entry.value}, the file has {len(tensors)} tensors",
            expected=f"at most {most} layers",
            todo=_AGAIN,
        )
    weights = sum(num_weights(tensor) for tensor in tensors.values())
    for name in _WIDTHS:
        entry = metadata.get(f"{arch.value}.{name}")
        if entry is not None and (largest := int(np.max(entry.value))) > max(weights, 1):
            raise FormatError(
                f"{arch.value}.{name} is {largest}, the file has {weights} weights",
                expected="a size that the tensors of the file have",
                todo=_AGAIN,
            )

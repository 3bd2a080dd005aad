"""The form of tokenizer files: every field that is read has its kind, steps are few and shallow.

A wrong field is named before anything works with it. Fields that are not listed here stay unread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from kanna._util.typed import (
    FLAG,
    LARGEST_COUNT,
    OBJECT,
    TEXTS,
    FieldKind,
    TypedObject,
    either,
    is_plain,
    listed,
    number,
    shown,
    text,
    whole,
)
from kanna.errors import FormatError, SourceError

MOST_STEPS = 1024
"""Of a normalizer, pre-tokenizer, post-processor or decoder; published ones have some tens."""
DEEPEST_STEP = 16
LONGEST_PATTERN = 1 << 16
_INSIDE = {
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "post_processor": "processors",
    "decoder": "decoders",
}
_SHORT, _LONG = text(256), text()
_AFFIX = FieldKind("a pair of a token and its id", lambda value: _pair(value, int))
_STEP: Mapping[str, FieldKind[Any]] = {
    **dict.fromkeys(
        (
            "add_prefix_space",
            "clean_text",
            "cleanup",
            "handle_chinese_chars",
            "individual_digits",
            "invert",
            "lowercase",
            "split",
            "strip_accents",
            "strip_left",
            "strip_right",
            "trim_offsets",
            "use_regex",
        ),
        FLAG,
    ),
    **dict.fromkeys(("behavior", "delimiter", "prefix", "prepend_scheme", "suffix"), _SHORT),
    **dict.fromkeys(("content", "pad_token", "prepend", "replacement"), text(LONGEST_PATTERN)),
    "word_delimiter_token": _SHORT,
    "precompiled_charsmap": _LONG,
    "start": whole(),
    "stop": whole(),
    "length": whole(1),
    "cls": _AFFIX,
    "sep": _AFFIX,
}
_MODEL: Mapping[str, FieldKind[Any]] = {
    "type": _SHORT,
    "byte_fallback": FLAG,
    "fuse_unk": FLAG,
    "ignore_merges": FLAG,
    "dropout": number(0, 1),
    "unk_token": text(LONGEST_PATTERN),
    "unk_id": whole(),
    "continuing_subword_prefix": _SHORT,
    "end_of_word_suffix": _SHORT,
    "max_input_chars_per_word": whole(),
}
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_TOKEN: Mapping[str, FieldKind[Any]] = {"content": _LONG, **dict.fromkeys(_FLAGS, FLAG)}
_ID = whole(-LARGEST_COUNT)  # whether ids lie within the vocabulary is asked where it is made


def check(value: Mapping[str, Any], name: str) -> None:
    """Refuse a tokenizer file with a field of another kind than it has.

    Args:
        value: The parsed file.
        name: Its name; files that are not listed are not looked at.

    Raises:
        SourceError: Which field it is, what it holds, and what it should hold.
    """
    checks = _CHECKS.get(name)
    if checks is None:
        return
    try:
        checks(TypedObject(value, name, "fetch it again"))
    except FormatError as error:
        raise SourceError(error.found, expected=error.expected, todo="fetch it again") from None


def _tokenizer(file: TypedObject) -> None:
    for token in file.parts("added_tokens"):
        token.need("id", _ID)
        _fields(token, _TOKEN)
        token.need("content", _LONG)
    for key, inside in _INSIDE.items():
        if key in file:
            _steps(file.part(key), inside)
    if "model" in file:
        model = file.part("model")
        _fields(model, _MODEL)
        _vocabulary(model)


def _fields(part: TypedObject, kinds: Mapping[str, FieldKind[Any]]) -> None:
    for key, kind in kinds.items():
        part.get(key, kind, None)


def _steps(step: TypedObject, inside: str) -> None:
    """A step, and those that it is a sequence of."""
    waiting, count = [(step, 1)], 0
    while waiting:
        step, depth = waiting.pop()
        count += 1
        if count > MOST_STEPS or depth > DEEPEST_STEP:
            raise FormatError(
                f"{step.file} has more than {MOST_STEPS} steps in {step.inside[:80]}"
                if count > MOST_STEPS
                else f"{step.file} has steps {depth} deep in {step.inside[:80]}",
                expected=f"at most {MOST_STEPS} steps, {DEEPEST_STEP} deep",
            )
        step.need("type", _SHORT)
        _fields(step, _STEP)
        if "pattern" in step:
            pattern = step.part("pattern")
            _fields(pattern, dict.fromkeys(("String", "Regex"), text(LONGEST_PATTERN)))
        _template(step)
        waiting += [(child, depth + 1) for child in step.parts(inside)]


def _template(step: TypedObject) -> None:
    """What TemplateProcessing puts around a text."""
    for key in ("single", "pair"):
        if isinstance(step.values.get(key), list):
            for piece in step.parts(key):
                for kind in ("SpecialToken", "Sequence"):
                    part = piece.part(kind)
                    part.get("id", _SHORT, None)
                    part.get("type_id", whole(), None)
    special = step.part("special_tokens")
    for name in special.values:
        token = special.part(name)
        token.get("ids", listed(whole()), None)
        token.get("tokens", TEXTS, None)


def _vocabulary(model: TypedObject) -> None:
    """Texts with ids, or Unigram's list of texts with scores."""
    vocab = model.get("vocab", _VOCABULARY, {})
    if isinstance(vocab, Mapping):
        wrong = next((t for t, i in vocab.items() if _ID.convert(i) is None), None)
        if wrong is not None:
            raise FormatError(
                f"{model.file} has {model.inside}vocab[{shown(wrong)}] = {shown(vocab[wrong])}",
                expected=_ID.words,
            )
        unwritable = next((t for t in vocab if not is_plain(t)), None)
    else:
        at = next((at for at, pair in enumerate(vocab) if _pair(pair, float) is None), None)
        if at is not None:
            raise FormatError(
                f"{model.file} has {model.inside}vocab[{at}] = {shown(vocab[at])}",
                expected="a pair of a text and its score",
            )
        unwritable = next((pair[0] for pair in vocab if not is_plain(pair[0])), None)
    if unwritable is not None:
        raise FormatError(
            f"{model.file} has the token {shown(unwritable)} in {model.inside}vocab",
            expected="texts that UTF-8 can hold",
        )


def _list(value: object) -> list[Any] | None:
    return cast(list[Any], value) if isinstance(value, list) else None


_LIST = FieldKind("a list", _list)
_VOCABULARY = either(OBJECT, _LIST)


def _pair(value: object, second: type) -> list[Any] | None:
    """`value`, where it is a list of a text and an id or a number."""
    if not isinstance(value, list) or len(value) != len(("text", "number")):
        return None
    first, other = value
    kind = whole() if second is int else number()
    return value if isinstance(first, str) and kind.convert(other) is not None else None


def _config(file: TypedObject) -> None:
    added = file.part("added_tokens_decoder")
    for key in added.values:
        if not _is_id(key):
            raise FormatError(
                f"{file.file} has {shown(key)} in added_tokens_decoder", expected="ids of tokens"
            )
        token = added.part(key)
        _fields(token, _TOKEN)
        token.need("content", _LONG)


def _is_id(key: str) -> bool:
    return key.isascii() and key.isdigit() and len(key) < len(str(LARGEST_COUNT)) + 1


def _added(file: TypedObject) -> None:
    for key in file.values:
        file.need(key, _ID)


_CHECKS: Mapping[str, Callable[[TypedObject], None]] = {
    "tokenizer.json": _tokenizer,
    "tokenizer_config.json": _config,
    "added_tokens.json": _added,
}

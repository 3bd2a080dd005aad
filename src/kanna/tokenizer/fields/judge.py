"""All fields of a tokenizer's files, each looked up in its table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kanna.tokenizer.fields import normalizers, pre_tokenizers, rest, settings
from kanna.tokenizer.fields.base import Fate, Field, Finding, Parts, short, steps

TOKENIZER, CONFIG, GENERATION, TOKEN_MAP = (
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "special_tokens_map.json",
)
# Parts of tokenizer.json that are steps: their key, the key of a sequence's steps, their types.
_PARTS: tuple[tuple[str, str, Sequence[Field]], ...] = (
    ("normalizer", "normalizers", normalizers.TABLE),
    ("pre_tokenizer", "pretokenizers", pre_tokenizers.TABLE),
    ("post_processor", "processors", rest.POST_PROCESSORS),
    ("decoder", "decoders", rest.DECODERS),
)
TABLES: dict[tuple[str, str], Sequence[Field]] = {
    (TOKENIZER, ""): rest.TOP,
    (TOKENIZER, "model"): rest.MODEL,
    (TOKENIZER, "added_tokens"): rest.ADDED,
    **{(TOKENIZER, key): table for key, _, table in _PARTS},
    (CONFIG, ""): settings.TOKENIZER_CONFIG,
    (GENERATION, ""): settings.GENERATION_CONFIG,
}
"""The fields by file and part, as the page of the documentation lists them."""


def judge(parts: Parts, config: Mapping[str, Any], generation: Any) -> list[Finding]:
    """What becomes of every value in a GGUF; each sentence once.

    Args:
        parts: The tokenizer, {} where it is a tokenizer.model.
        config: The object in tokenizer_config.json.
        generation: What is in generation_config.json.
    """
    findings = [
        *_fields(TOKENIZER, "", parts.tokenizer, parts),
        *_fields(TOKENIZER, "model", parts.model, parts),
        *_added(parts),
        *(f for key, inner, _ in _PARTS for f in _steps(key, inner, parts)),
        *_fields(CONFIG, "", config, parts),
        *_fields(GENERATION, "", generation if isinstance(generation, Mapping) else {}, parts),
    ]
    unique = {(f.fate, f.sentence) if f.sentence else f: f for f in findings}
    return list(unique.values())


def _fields(file: str, part: str, given: Mapping[str, Any], parts: Parts) -> Iterator[Finding]:
    table = {f.name: f for f in TABLES[file, part]}
    for name, value in given.items():
        field = table.get(name)
        place = f"{part}.{name}" if part else name
        if field is None:
            yield _unknown(file, place, value)
        else:
            fate, sentence = field.look(value, parts)
            yield Finding(file=file, field=place, fate=fate, sentence=sentence)


def _unknown(file: str, place: str, value: Any) -> Finding:
    if value is None or value is False or value in ("", [], {}):
        return Finding(file=file, field=place, fate=Fate.NEUTRAL)
    sentence = (
        f"{file} has {place} = {short(value)[:80]}, which kanna does not know: "
        "it is not in the GGUF"
    )
    return Finding(file=file, field=place, fate=Fate.NOTED, sentence=sentence)


def _added(parts: Parts) -> Iterator[Finding]:
    """One look per flag: tokens are many, and their sentences name several at once."""
    tokens = [a for a in parts.tokenizer.get("added_tokens") or [] if isinstance(a, Mapping)]
    merged: dict[str, Any] = {}
    for token in tokens:
        merged |= {k: v for k, v in token.items() if v or k not in merged}
    yield from _fields(TOKENIZER, "added_tokens", merged, parts)


def _steps(key: str, inner: str, parts: Parts) -> Iterator[Finding]:
    table = {f.name: f for f in TABLES[TOKENIZER, key]}
    for step in steps(parts.tokenizer.get(key), inner):
        kind = str(step.get("type"))
        field = table.get(kind)
        place = f"{key}: {kind}"
        if field is None:
            fate = Fate.REFUSED if key in ("normalizer", "pre_tokenizer") else Fate.NOTED
            sentence = f"llama.cpp has no such step as the tokenizer's {key} {short(step)}"
            yield Finding(file=TOKENIZER, field=place, fate=fate, sentence=sentence)
            continue
        fate, sentence = field.look(step, parts)
        yield Finding(file=TOKENIZER, field=place, fate=fate, sentence=sentence)

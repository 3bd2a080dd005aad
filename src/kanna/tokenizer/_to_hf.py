"""From `tokenizer.*` metadata back to tokenizer.json and tokenizer_config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from kanna.errors import SourceError, UnsupportedError
from kanna.model import MetaValue
from kanna.sources.sentencepiece_merges import merges
from kanna.tokenizer import _pre, _unigram, _wordpiece
from kanna.tokenizer._vocab import SPACE, Type

KEY = "tokenizer.ggml"
_TOKENS = {
    "bos": "bos",
    "eos": "eos",
    "unknown": "unk",
    "padding": "pad",
    "seperator": "sep",
    "mask": "mask",
}


def to_hf(metadata: Mapping[str, MetaValue]) -> dict[str, bytes]:
    """Files by name; raises UnsupportedError for what tokenizer.json cannot express exactly."""

    def meta(key: str, default: Any = None) -> Any:
        entry = metadata.get(f"{KEY}.{key}")
        return default if entry is None else entry.value

    tokens: Sequence[str] | None = meta("tokens")
    if tokens is None:
        raise SourceError("the GGUF has no tokenizer", expected="tokenizer.ggml.tokens")
    tokens = list(tokens)
    types = [int(t) for t in meta("token_type", [Type.NORMAL] * len(tokens))]
    kind = meta("model")
    implied = _wordpiece.IMPLIED if kind == _wordpiece.MODEL else {}
    special = {
        hf: tokens[i]
        for ours, hf in _TOKENS.items()
        if 0 <= (i := int(meta(f"{ours}_token_id", implied.get(ours, -1)))) < len(tokens)
    }
    if kind == "llama":
        tokenizer = _sentencepiece(
            tokens, types, list(meta("scores", [])), meta("add_space_prefix", True)
        )
    elif kind == "gpt2":
        tokenizer = _byte_level(tokens, types, list(meta("merges", [])), str(meta("pre", "")))
    elif kind == _wordpiece.MODEL:
        flags = _wordpiece.stored_normalization(metadata)
        tokenizer = _wordpiece.to_json(tokens, types, special, flags)
        special = {"cls" if name == "bos" else name: text for name, text in special.items()}
    elif kind == _unigram.MODEL:
        tokenizer = _unigram.to_json(tokens, types, list(meta("scores", [])), metadata)
    else:
        raise UnsupportedError(
            f"a {kind!r} tokenizer has no tokenizer.json form", expected="llama, gpt2, bert or t5"
        )
    tokenizer["added_tokens"] = [
        _added(i, text, type_ == Type.CONTROL or text == special.get("unk"))
        for i, (text, type_) in enumerate(zip(tokens, types, strict=True))
        if type_ in (Type.CONTROL, Type.USER_DEFINED, Type.UNKNOWN)
    ]
    add_bos = bool(meta("add_bos_token", kind == "llama")) and "bos" in special
    add_eos = bool(meta("add_eos_token", False)) and "eos" in special
    tokenizer["post_processor"] = (
        _separated(tokens, special)
        if kind == _wordpiece.MODEL
        else _frame(
            tokens,
            special,
            (add_bos, add_eos, bool(meta("add_sep_token", False)) and "sep" in special),
            kind == "gpt2",
        )
    )
    config = _settings(metadata, special, add_bos, add_eos)
    return {"tokenizer.json": _json(tokenizer), "tokenizer_config.json": _json(config)}


def _settings(
    metadata: Mapping[str, MetaValue], special: Mapping[str, str], add_bos: bool, add_eos: bool
) -> dict[str, Any]:
    """tokenizer_config.json: special tokens, what is added to texts, the chat template."""
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": add_bos,
        "add_eos_token": add_eos,
        "clean_up_tokenization_spaces": False,
        **{f"{name}_token": text for name, text in special.items()},
    }
    if (template := _templates(metadata)) is not None:
        config["chat_template"] = template
    return config


def _templates(metadata: Mapping[str, MetaValue]) -> str | list[dict[str, str]] | None:
    """The chat template; a list of named ones where there are several."""
    main = metadata.get("tokenizer.chat_template")
    names = metadata.get("tokenizer.chat_templates")
    others = {
        str(name): str(entry.value)
        for name in (names.value if names is not None else [])
        if (entry := metadata.get(f"tokenizer.chat_template.{name}")) is not None
    }
    default = {} if main is None else {"default": str(main.value)}
    if not others:
        return default.get("default")
    return [{"name": n, "template": t} for n, t in (default | others).items()]


def _json(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode(
        "utf-8", "surrogateescape"
    )


def _added(token: int, text: str, special: bool) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token, "content": text, **plain, "special": special}


def _model(vocab: dict[str, int], merges: list[list[str]], **values: Any) -> dict[str, Any]:
    nothing = dict.fromkeys(
        ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")
    )
    flags = dict.fromkeys(("fuse_unk", "byte_fallback", "ignore_merges"), False)
    return {"type": "BPE", **nothing, **flags, **values, "vocab": vocab, "merges": merges}


def _byte_level(tokens: list[str], types: list[int], merges: list[str], pre: str) -> dict[str, Any]:
    steps, lookup = _pre.steps_of(pre)
    # Control tokens too: the tokenizers library numbers added tokens anew unless the vocabulary has
    # them.
    vocab = {t: i for i, t in enumerate(tokens) if types[i] != Type.UNUSED}
    # A merge's separator is the first space that has something before it, as llama.cpp reads it.
    pairs = [[m[:at], m[at + 1 :]] for m in merges if (at := m.find(" ", 1)) > 0]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "normalizer": {"type": "NFC"} if pre == "qwen2" else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "decoder": _byte_step(True),
        "model": _model(vocab, pairs, ignore_merges=lookup),
    }


def _byte_step(regex: bool) -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": regex,
    }


def _sentencepiece(
    tokens: list[str], types: list[int], scores: list[float], prefix: bool
) -> dict[str, Any]:
    if len(scores) != len(tokens):
        raise SourceError(
            f"the GGUF has {len(tokens)} tokens and {len(scores)} scores",
            expected="as many of both",
        )
    vocab = {t: i for i, t in enumerate(tokens) if types[i] != Type.UNUSED}
    pieces = {t: i for t, i in vocab.items() if types[i] == Type.NORMAL}
    pairs = [list(pair) for pair in merges(pieces, scores)]
    unknown = next((t for t, i in vocab.items() if types[i] == Type.UNKNOWN), None)
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prepend = [{"type": "Prepend", "prepend": SPACE}] if prefix else []
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "normalizer": {"type": "Sequence", "normalizers": [*prepend, replace]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _model(vocab, pairs, unk_token=unknown, fuse_unk=True, byte_fallback=True),
    }


def _frame(
    tokens: list[str], special: dict[str, str], adds: tuple[bool, bool, bool], bytes_: bool
) -> dict[str, Any] | None:
    """Post-processor that adds the start and end tokens, and one more between two texts."""
    bos, eos, between = adds
    used = [special[n] for n, on in (("bos", bos), ("eos", eos), ("sep", between)) if on]
    byte_step = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": False,
        "use_regex": True,
    }
    if not used:
        return byte_step if bytes_ else None

    def framed(name: str, number: int) -> list[dict[str, Any]]:
        before = [{"SpecialToken": {"id": special["bos"], "type_id": number}}] if bos else []
        after = [{"SpecialToken": {"id": special["eos"], "type_id": number}}] if eos else []
        return [*before, {"Sequence": {"id": name, "type_id": number}}, *after]

    template = {
        "type": "TemplateProcessing",
        "single": framed("A", 0),
        "pair": framed("A", 0) + framed("B", 1),
        "special_tokens": {t: {"id": t, "ids": [tokens.index(t)], "tokens": [t]} for t in used},
    }
    if between:
        middle = {"SpecialToken": {"id": special["sep"], "type_id": 0}}
        template["pair"] = [*framed("A", 0), middle, *framed("B", 1)[bos:]]
    return {"type": "Sequence", "processors": [byte_step, template]} if bytes_ else template


def _separated(tokens: list[str], special: dict[str, str]) -> dict[str, Any]:
    """Post-processor that begins every text with one token, and ends every part with another."""
    first, last = special.get("cls"), special.get("sep")
    if first is None or last is None:
        raise SourceError(
            "the GGUF does not say which tokens frame a text",
            expected="tokenizer.ggml.bos_token_id and tokenizer.ggml.seperator_token_id",
        )

    def token(text: str, number: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": text, "type_id": number}}

    def part(name: str, number: int) -> list[dict[str, Any]]:
        return [{"Sequence": {"id": name, "type_id": number}}, token(last, number)]

    return {
        "type": "TemplateProcessing",
        "single": [token(first, 0), *part("A", 0)],
        "pair": [token(first, 0), *part("A", 0), *part("B", 1)],
        "special_tokens": {
            t: {"id": t, "ids": [tokens.index(t)], "tokens": [t]} for t in (first, last)
        },
    }

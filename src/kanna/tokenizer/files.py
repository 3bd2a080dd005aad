"""The files of a tokenizer: their names, and their objects, also where tokenizer.json is absent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kanna.errors import KannaError, SourceError, UnsupportedError
from kanna.formats.text_files import read_text
from kanna.tokenizer import _json, _pre, form, templates
from kanna.tokenizer._vocab import check_ids
from kanna.tokenizer.special_tokens import settings

TOKENIZER = "tokenizer.json"
PIECES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
"""Names under which SentencePiece's model lies."""
NAMES = (
    TOKENIZER,
    *PIECES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tekken.json",
    "tiktoken.model",
    templates.FILE,
    "chat_template.json",
    "generation_config.json",
)
"""Files that say how text becomes ids, and how a generation goes: folders keep them as they are."""
# Tokenizer classes whose steps are in transformers' code alone, by what they are there.
_CLASSES = {"Qwen2Tokenizer": "qwen2", "GPT2Tokenizer": "gpt-2"}
_NORMALIZERS: dict[str, dict[str, Any]] = {"qwen2": {"type": "NFC"}}


def side_files(files: Mapping[str, Path]) -> dict[str, Path]:
    """The files a folder keeps, by their name in it."""
    named = {name: files[name] for name in NAMES if name in files}
    others = {f"{templates.FOLDER}/{p.name}": p for p in templates.additional(files)}
    return named | others


def configured(files: Mapping[str, Path]) -> dict[str, Any]:
    """The object in tokenizer_config.json, with the tokens of special_tokens_map.json."""
    return settings(read(files, "tokenizer_config.json"), read(files, "special_tokens_map.json"))


def read(files: Mapping[str, Path], name: str) -> dict[str, Any]:
    """A JSON side file; {} when absent. Raises SourceError for anything but an object."""
    if (path := files.get(name)) is None:
        return {}
    try:
        # The largest of them by far is parsed apart.
        value = _json.load(path) if name == TOKENIZER else json.loads(text(path))
    except OSError as error:
        raise SourceError(f"{name} cannot be read: {error}", todo="fetch it again") from error
    except ValueError as error:
        raise SourceError(f"{name} is not JSON: {error}", todo="fetch it again") from error
    except RecursionError as error:
        raise SourceError(
            f"{name} has lists and objects nested deeper than any tokenizer",
            todo="fetch it again",
        ) from error
    if not isinstance(value, dict):
        raise SourceError(
            f"{name} holds {type(value).__name__}", expected="an object", todo="fetch it again"
        )
    form.check(value, name)
    return value


def text(path: Path) -> str:
    """A text file; raises SourceError."""
    try:
        return read_text(path)
    except OSError as error:
        raise SourceError(f"{path.name} cannot be read: {error}", todo="fetch it again") from error


def generation(files: Mapping[str, Path]) -> dict[str, Any]:
    """The object in generation_config.json; {} where it cannot be read, which a note tells."""
    try:
        return read(files, "generation_config.json")
    except KannaError:
        return {}


def texts_by_id(tokenizer: Mapping[str, Any], rows: int | None) -> list[str]:
    """Token texts of any tokenizer.json, for what needs no more; "" where no token is known."""
    vocab = (tokenizer.get("model") or {}).get("vocab") or {}
    pairs: list[tuple[Any, Any]] = (
        list(enumerate(v[0] for v in vocab))
        if isinstance(vocab, list)
        else [(i, t) for t, i in vocab.items()]
    )
    entries = {i: str(t) for i, t in pairs if isinstance(i, int)}
    entries |= {int(a["id"]): str(a["content"]) for a in tokenizer.get("added_tokens") or []}
    size = rows if rows is not None else max(entries, default=-1) + 1
    if rows is None:
        check_ids(size, len(entries))
    return [entries.get(i, "") for i in range(size)]


def from_merges(files: Mapping[str, Path], config: Mapping[str, Any]) -> dict[str, Any]:
    """The object of tokenizer.json that vocab.json and merges.txt stand for.

    Raises:
        UnsupportedError: The class of the tokenizer is not one whose steps are known.
    """
    kind = str(config.get("tokenizer_class", "")).removesuffix("Fast")
    if kind not in _CLASSES:
        raise UnsupportedError(
            f"vocab.json and merges.txt of a {kind or 'tokenizer of no class'}, without "
            f"{TOKENIZER}",
            expected=f"{TOKENIZER}, or one of {', '.join(_CLASSES)}",
            todo="write it with transformers: "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)",
        )
    pre = _CLASSES[kind]
    lines = text(files["merges.txt"]).split("\n")
    merges = [line.split(" ", 1) for line in lines if " " in line and not line.startswith("#ver")]
    plain = dict.fromkeys(("dropout", "unk_token"))
    flags = dict.fromkeys(("fuse_unk", "byte_fallback", "ignore_merges"), False)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added(files, config),
        "normalizer": _NORMALIZERS.get(pre),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _pre.steps_of(pre)[0]},
        "post_processor": None,
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": {
            "type": "BPE",
            **plain,
            **flags,
            "vocab": read(files, "vocab.json"),
            "merges": merges,
        },
    }


def _added(files: Mapping[str, Path], config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Added tokens of a tokenizer without tokenizer.json, in the form they have there."""
    special = {t for k, v in config.items() if k.endswith("_token") and (t := _content(v))}
    for key in ("additional_special_tokens", "extra_special_tokens"):
        listed = config.get(key) or []
        special |= {t for v in (listed if isinstance(listed, list) else []) if (t := _content(v))}
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    plain: dict[str, Any] = dict.fromkeys(flags, False)
    added = {
        int(i): plain | {"content": t, "normalized": t not in special, "special": t in special}
        for t, i in read(files, "added_tokens.json").items()
    }
    vocab = read(files, "vocab.json")
    for t in sorted(special):
        if t in vocab and int(vocab[t]) not in added:
            added[int(vocab[t])] = plain | {"content": t, "special": True}
    for i, token in (config.get("added_tokens_decoder") or {}).items():
        added[int(i)] = plain | {k: token[k] for k in ("content", *flags) if k in token}
    return [{"id": i, **added[i]} for i in sorted(added)]


def _content(value: Any) -> str | None:
    value = value.get("content") if isinstance(value, Mapping) else value
    return value if isinstance(value, str) and value else None

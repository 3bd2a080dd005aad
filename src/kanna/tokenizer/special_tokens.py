"""Which tokens begin and end a text, wherever the files of a model name them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

KINDS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


def settings(config: Mapping[str, Any], token_map: Mapping[str, Any]) -> dict[str, Any]:
    """The object of tokenizer_config.json with the tokens of special_tokens_map.json.

    A config that lists its added tokens is newer than that file, which then only fills gaps; an
    older config gives way to it, as in transformers.
    """
    newer = "added_tokens_decoder" in config
    tokens = {k: v for k, v in token_map.items() if text_of(v) or isinstance(v, list)}
    return {**tokens, **_named(config)} if newer else {**config, **tokens}


def _named(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without special tokens that are null, so that another file can name them."""
    return {k: v for k, v in config.items() if v is not None or not k.endswith("_token")}


def text_of(entry: Any) -> str | None:
    """A token is named by its text, or by an object with the text as `content`."""
    if isinstance(entry, Mapping):
        entry = entry.get("content")
    return entry if isinstance(entry, str) and entry else None


def ids_of(value: Any) -> list[int]:
    """An id, or a list of them, as configs have it."""
    values: list[Any] = value if isinstance(value, list) else [value]
    return [v for v in values if isinstance(v, int) and not isinstance(v, bool) and v >= 0]


def end_ids(
    named: Mapping[str, Any],
    configs: Iterable[Mapping[str, Any]],
    find: Callable[[str], int | None],
) -> list[int]:
    """Every id that ends a generation, the tokenizer's own end token first.

    Args:
        named: What `settings` gives.
        configs: config.json and generation_config.json, each with one id or a list.
        find: The id of a token's text.
    """
    text = text_of(named.get("eos_token"))
    own = find(text) if text else None
    others = [i for config in configs for i in ids_of(config.get("eos_token_id"))]
    return list(dict.fromkeys([*([] if own is None else [own]), *others]))

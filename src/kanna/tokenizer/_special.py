"""Special ids, whether text is framed by them, and the chat template."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kanna.errors import UnsupportedError
from kanna.model import MetaValue, ValueType, array, boolean, string, u32
from kanna.tokenizer import templates as chat_templates
from kanna.tokenizer.special_tokens import end_ids, ids_of, text_of

KEY = "tokenizer.ggml"
_END_KEYS = tuple(f"{KEY}.{name}_token_id" for name in ("eos", "eot", "eom"))
_CONFIGURED = {
    "bos": "bos",
    "eos": "eos",
    "unk": "unknown",
    "sep": "seperator",
    "pad": "padding",
    "mask": "mask",
}

# Ids that configs do not name, found by the token's text. First match wins. Naming them keeps
# llama.cpp from guessing: it takes whichever candidate its hash table yields first.
_BY_TEXT: dict[str, tuple[str, ...]] = {
    "eot": ("<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<|end|>", "▁<EOT>", "<EOT>"),
    "eom": ("<|eom_id|>",),
    "fim_pre": ("<|fim_prefix|>", "<fim_prefix>", "▁<PRE>", "<PRE>", "<｜fim▁begin｜>"),
    "fim_suf": ("<|fim_suffix|>", "<fim_suffix>", "▁<SUF>", "<SUF>", "<｜fim▁hole｜>"),
    "fim_mid": ("<|fim_middle|>", "<fim_middle>", "▁<MID>", "<MID>", "<｜fim▁end｜>"),
    "fim_pad": ("<|fim_pad|>", "<fim_pad>"),
    "fim_rep": ("<|repo_name|>", "<|fim_repo|>", "<reponame>"),
    "fim_sep": ("<|file_sep|>", "<file_sep>"),
}


# Tokenizer classes that add a start token by themselves.
_ADD_BOS = ("Llama", "CodeLlama", "Gemma")


# Texts that end a generation in llama.cpp, whatever the file says (llama-vocab.cpp).
_ENDS_BY_TEXT = frozenset(
    [
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<|flush|>",
        "<|calls|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "</s>",
        "<|eom_id|>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "[EOS]",
        "<|end_of_text|>",
        "<end_of_utterance>",
        "<eos>",
        "<turn|>",
        "<|tool_response>",
        "<｜end▁of▁sentence｜>",
        "[e~[",
    ]
)


def special_ids(
    tokens: list[str], settings: Mapping[str, Any], configs: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, MetaValue], list[str]]:
    """Ids of special tokens, and remarks on those that a GGUF has no place for.

    Args:
        tokens: By id.
        settings: tokenizer_config.json with the tokens of special_tokens_map.json.
        configs: config.json, what is nested in it, and generation_config.json.
    """
    wanted = {text_of(settings.get(f"{name}_token")) for name in _CONFIGURED}.union(
        *_BY_TEXT.values()
    )
    ids = {text: i for i, text in enumerate(tokens) if text in wanted}
    size = len(tokens)
    entries: dict[str, MetaValue] = {}
    for name, key in _CONFIGURED.items():
        text = text_of(settings.get(f"{name}_token"))
        named = [ids[text]] if text in ids else []
        named += [i for c in configs for i in ids_of(c.get(f"{name}_token_id")) if i < size]
        if named:
            entries[f"{KEY}.{key}_token_id"] = u32(named[0])
    for name, texts in _BY_TEXT.items():
        token = next((ids[t] for t in texts if t in ids), None)
        if token is not None:
            entries[f"{KEY}.{name}_token_id"] = u32(token)
    ends = [i for i in end_ids(settings, configs, ids.get) if i < size]
    return entries, _place_ends(entries, ends, tokens)


def _place_ends(entries: dict[str, MetaValue], ends: list[int], tokens: list[str]) -> list[str]:
    """Name every end token in one of the three keys for them; remarks on those without a place.

    llama.cpp stops at the tokens of these keys and at those whose text it knows.
    """
    for name in ("eot", "eom"):
        key = f"{KEY}.{name}_token_id"
        named = {int(entries[k].value) for k in _END_KEYS if k in entries}
        left = [i for i in ends if i not in named and tokens[i] not in _ENDS_BY_TEXT]
        held = entries.get(key)
        # A text that llama.cpp knows needs no key.
        if left and (held is None or tokens[int(held.value)] in _ENDS_BY_TEXT):
            entries[key] = u32(left[0])
    named = {int(entries[k].value) for k in _END_KEYS if k in entries}
    lost = [tokens[i] for i in ends if i not in named and tokens[i] not in _ENDS_BY_TEXT]
    if not lost:
        return []
    return [
        f"a GGUF names three end tokens at most: llama.cpp does not stop at {', '.join(lost[:4])}"
    ]


def framing(
    tokenizer: Mapping[str, Any] | None,
    settings: Mapping[str, Any],
    ids: Mapping[str, MetaValue],
    model: str,
) -> tuple[dict[str, MetaValue], list[str]]:
    """add_bos_token and add_eos_token with the ids they add, and remarks.

    What the tokenizer's post-processor does, else what its config says.

    Args:
        tokenizer: The object in tokenizer.json; None where there is none.
        settings: The one in tokenizer_config.json.
        ids: Keys of special tokens that are known.
        model: Kind of the vocabulary in a GGUF, see `_vocab.Vocab`.

    Raises:
        UnsupportedError: llama.cpp frames texts of this kind in another way.
    """
    bos, eos = settings.get("add_bos_token"), settings.get("add_eos_token")
    steps = list(_processors((tokenizer or {}).get("post_processor")))
    frame = next((f for f in map(_frame, steps) if f is not None), None)
    if model in _SEPARATES:
        return _separated(frame, ids), []
    if frame is not None:
        entries, notes = _framed(frame, ids)
        return entries | _between(next(s for s in steps if _frame(s) is not None)), notes
    if steps:
        bos, eos = bool(bos), bool(eos)
        if any(s.get("type") == "ByteLevel" for s in steps):
            bos = eos = False
    elif tokenizer is not None and not str(settings.get("tokenizer_class", "")).startswith(
        _ADD_BOS
    ):
        # without a post-processor nothing is added, whatever the config says
        bos, eos = False, False
    bos = model == "llama" if bos is None else bos
    return _flags(bool(bos), bool(eos)), []


def _processors(post: Any) -> Iterator[Mapping[str, Any]]:
    """The steps of a post-processor."""
    if not isinstance(post, Mapping):
        return
    if "processors" in post:
        for step in post["processors"]:
            yield from _processors(step)
    else:
        yield post


def _frame(step: Mapping[str, Any]) -> tuple[int | None, int | None] | None:
    """Ids before and after a text; -1 where a token's id is not known, None: not a frame."""
    if step.get("type") in ("BertProcessing", "RobertaProcessing"):
        return int(step["cls"][1]), int(step["sep"][1])
    if step.get("type") != "TemplateProcessing":
        return None
    single, known = step.get("single") or [], step.get("special_tokens") or {}

    def added(piece: Mapping[str, Any]) -> int | None:
        if "SpecialToken" not in piece:
            return None
        name = (piece["SpecialToken"] or {}).get("id")
        return next(iter((known.get(name) or {}).get("ids") or []), -1)

    return (added(single[0]), added(single[-1])) if single else (None, None)


def _between(step: Mapping[str, Any]) -> dict[str, MetaValue]:
    """The key of a second token between two texts, as RoBERTa puts it there.

    What llama.cpp's server puts between a question and a text is the end token, and this one.
    """
    if step.get("type") == "RobertaProcessing":
        token = int(step["sep"][1])
    else:
        pair, known = step.get("pair") or [], step.get("special_tokens") or {}
        kinds = ["Sequence" in piece for piece in pair]
        texts = [i for i, kind in enumerate(kinds) if kind]
        if len(texts) != len(("A", "B")) or texts[1] - texts[0] != _SEPARATED:
            return {}
        name = (pair[texts[1] - 1]["SpecialToken"] or {}).get("id")
        token = next(iter((known.get(name) or {}).get("ids") or []), -1)
    if token < 0:
        return {}
    return {f"{KEY}.seperator_token_id": u32(token), f"{KEY}.add_sep_token": boolean(True)}


_SEPARATED = 3
"""Places from a text to the next one where two tokens lie between them."""


def _framed(
    frame: tuple[int | None, int | None], ids: Mapping[str, MetaValue]
) -> tuple[dict[str, MetaValue], list[str]]:
    """The keys of a frame: llama.cpp adds the tokens that it knows as bos and eos."""
    entries, notes = _flags(*(token is not None for token in frame)), list[str]()
    for name, token in zip(("bos", "eos"), frame, strict=True):
        key = f"{KEY}.{name}_token_id"
        named = ids.get(key)
        if token is None or token < 0 or (named is not None and named.value == token):
            continue
        if named is None or name == "bos":
            entries[key] = u32(token)
        if named is not None:
            notes.append(
                f"the tokenizer frames texts with token {token}, its {name}_token is "
                f"{named.value}: "
                + ("llama.cpp takes the first for both" if name == "bos" else "llama.cpp adds that")
            )
    return entries, notes


_SEPARATES = ("bert",)
"""Kinds of vocabularies that end every text with their separator in llama.cpp."""


def _separated(
    frame: tuple[int | None, int | None] | None, ids: Mapping[str, MetaValue]
) -> dict[str, MetaValue]:
    """The keys of a frame that llama.cpp puts around every text, whatever the file says."""
    first, last = frame or (None, None)
    if first is None or last is None or min(first, last) < 0:
        raise UnsupportedError(
            "the post-processor does not put a token before a text and one after it",
            expected="[CLS] text [SEP]: llama.cpp frames every text of a WordPiece vocabulary so",
            todo="write an ONNX folder, which keeps the tokenizer as it is: --preset onnx:int8",
        )
    return {
        f"{KEY}.bos_token_id": u32(first),
        f"{KEY}.seperator_token_id": u32(last),
        **_flags(True, False),
        f"{KEY}.add_sep_token": boolean(True),
    }


def _flags(bos: bool, eos: bool) -> dict[str, MetaValue]:
    return {f"{KEY}.add_bos_token": boolean(bos), f"{KEY}.add_eos_token": boolean(eos)}


def templates(given: Mapping[str, str]) -> dict[str, MetaValue]:
    """Chat template keys from templates by name; `default` is the main one."""
    entries: dict[str, MetaValue] = {}
    others: list[str] = []
    for name, template in given.items():
        if name == chat_templates.DEFAULT:
            entries["tokenizer.chat_template"] = string(template)
            continue
        clean = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in name)
        entries[f"tokenizer.chat_template.{clean}"] = string(template)
        others.append(clean)
    if others:
        entries["tokenizer.chat_templates"] = array(others, ValueType.STR)
    return entries

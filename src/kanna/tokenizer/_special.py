"""Special ids, whether text is framed by them, and the chat template."""

from __future__ import annotations

from typing import Any

from kanna.model import MetaValue, ValueType, array, boolean, string, u32

KEY = "tokenizer.ggml"
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


def text_of(entry: Any) -> str | None:
    """A token in tokenizer_config.json is its text, or an object with the text as `content`."""
    if isinstance(entry, dict):
        entry = entry.get("content")
    return entry if isinstance(entry, str) and entry else None


def special_ids(
    tokens: list[str], config: dict[str, Any], model_config: dict[str, Any]
) -> dict[str, MetaValue]:
    """Ids of special tokens from tokenizer_config.json, config.json, then well-known texts."""
    wanted = {text_of(config.get(f"{name}_token")) for name in _CONFIGURED}.union(
        *_BY_TEXT.values()
    )
    ids = {text: i for i, text in enumerate(tokens) if text in wanted}
    size = len(tokens)
    nested = model_config.get("text_config") or {}
    entries: dict[str, MetaValue] = {}
    for name, key in _CONFIGURED.items():
        text = text_of(config.get(f"{name}_token"))
        token = ids.get(text) if text else None
        for place in (model_config, nested):
            given = place.get(f"{name}_token_id")
            if isinstance(given, list) and given:
                given = given[0]
            if token is None and isinstance(given, int) and not isinstance(given, bool):
                token = given
        if token is not None and 0 <= token < size:
            entries[f"{KEY}.{key}_token_id"] = u32(token)
    for name, texts in _BY_TEXT.items():
        token = next((ids[t] for t in texts if t in ids), None)
        if token is not None:
            entries[f"{KEY}.{name}_token_id"] = u32(token)
    return entries


def framing(
    tokenizer: dict[str, Any] | None, config: dict[str, Any], default_bos: bool
) -> dict[str, MetaValue]:
    """add_bos_token and add_eos_token.

    What the tokenizer's post-processor does, else what its config says.
    """
    bos, eos = config.get("add_bos_token"), config.get("add_eos_token")
    post = (tokenizer or {}).get("post_processor")
    if post:
        steps = post.get("processors", [post])
        for step in steps:
            if step.get("type") == "TemplateProcessing":
                single = step.get("single") or []
                bos = bool(single) and "SpecialToken" in single[0]
                eos = bool(single) and "SpecialToken" in single[-1]
                break
        else:
            bos, eos = (
                bool(bos) if bos is not None else False,
                bool(eos) if eos is not None else False,
            )
            if any(s.get("type") == "ByteLevel" for s in steps):
                bos = eos = False
    elif tokenizer is not None and not str(config.get("tokenizer_class", "")).startswith(_ADD_BOS):
        bos, eos = (
            False,
            False,
        )  # without a post-processor nothing is added, whatever the config says
    bos = default_bos if bos is None else bos
    return {f"{KEY}.add_bos_token": boolean(bool(bos)), f"{KEY}.add_eos_token": boolean(bool(eos))}


def templates(given: Any) -> dict[str, MetaValue]:
    """Chat template keys from a template, or a list of named ones (`default` is the main one)."""
    if isinstance(given, str):
        return {"tokenizer.chat_template": string(given)}
    if not isinstance(given, list):
        return {}
    entries: dict[str, MetaValue] = {}
    others: list[str] = []
    for entry in given:
        if not isinstance(entry, dict):
            continue
        name, template = entry.get("name"), entry.get("template")
        if not isinstance(name, str) or not isinstance(template, str):
            continue
        if name == "default":
            entries["tokenizer.chat_template"] = string(template)
        else:
            clean = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in name)
            entries[f"tokenizer.chat_template.{clean}"] = string(template)
            others.append(clean)
    if others:
        entries["tokenizer.chat_templates"] = array(others, ValueType.STR)
    return entries

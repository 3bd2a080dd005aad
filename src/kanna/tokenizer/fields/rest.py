"""The vocabulary's own fields, added tokens, decoders, post-processors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kanna.tokenizer.fields.base import Fate, Field, Parts, carried, neutral, short, steps, unless
from kanna.tokenizer.fields.normalizers import SPACE, normalized

_BYTES, _ASCII = 256, 128


def _all_bytes(parts: Parts) -> bool:
    vocab = parts.ids
    if not parts.bytes_:
        characters = {b: chr(b) if chr(b) != " " else SPACE for b in range(_ASCII)}
        return all(f"<0x{b:02X}>" in vocab or characters.get(b) in vocab for b in range(_BYTES))
    from tokenizers import pre_tokenizers

    return all(c in vocab for c in pre_tokenizers.ByteLevel.alphabet())


def _unknown(value: Any, parts: Parts) -> tuple[Fate, str]:
    if parts.words:
        return Fate.CARRIED, ""
    if _all_bytes(parts):
        return Fate.NEUTRAL, ""
    if value is None:
        return Fate.NOTED, "the vocabulary lacks some bytes: llama.cpp drops or breaks text of them"
    return Fate.NOTED, (
        "the vocabulary lacks some bytes: the tokenizer writes its unknown token for them, "
        "llama.cpp may write something else"
    )


def _bytes(value: Any, parts: Parts) -> tuple[Fate, str]:
    if parts.pieces and value:
        return Fate.REFUSED, (
            "the tokenizer writes bytes for what no piece has, and llama.cpp does not with Unigram"
        )
    return Fate.CARRIED, ""


def _inside(value: Any, parts: Parts) -> tuple[Fate, str]:
    """WordPiece marks pieces inside a word, others do not; its own reader refuses other marks."""
    if parts.words or value in (None, ""):
        return Fate.CARRIED, ""
    return Fate.REFUSED, _CHANGED.replace("{name}", "continuing_subword_prefix").replace(
        "{}", short(value)
    )


def _word_length(value: Any, parts: Parts) -> tuple[Fate, str]:
    if not parts.words:
        return Fate.NEUTRAL, ""
    return Fate.NOTED, (
        f"the tokenizer writes its unknown token for words of more than {value} letters, llama.cpp "
        "splits them like others"
    )


_CHANGED = "the tokenizer has {name} = {}, which llama.cpp does not know: ids would differ"
MODEL = (
    carried("type", "`tokenizer.ggml.model`: BPE, WordPiece, Unigram; any other type is refused"),
    carried("unk_id", "`token_type` of Unigram: unknown"),
    carried("vocab", "`tokens`, `token_type`"),
    carried("merges", "`merges`, or `scores` in vocabularies like SentencePiece's"),
    Field(
        name="byte_fallback",
        how="of BPE `tokenizer.ggml.model`: `llama`; of Unigram refused where it is true",
        judge=_bytes,
    ),
    Field(
        name="unk_token",
        how="`unknown_token_id` of WordPiece; else changes nothing where all 256 bytes are tokens",
        judge=_unknown,
    ),
    Field(
        name="fuse_unk",
        how="where all 256 bytes are tokens; else unk_token is named in a note",
        fate=Fate.NEUTRAL,
    ),
    carried("ignore_merges", "the name in `pre`; refused where none has both splitting and lookup"),
    unless(
        "dropout",
        (0, 0.0),
        "the tokenizer leaves out merges at random (dropout {}), llama.cpp never does",
    ),
    Field(
        name="continuing_subword_prefix",
        how="## of WordPiece is carried; else refused unless it is empty",
        judge=_inside,
    ),
    unless(
        "end_of_word_suffix", ("",), _CHANGED.replace("{name}", "end_of_word_suffix"), Fate.REFUSED
    ),
    Field(
        name="max_input_chars_per_word",
        how="no field of BPE; of WordPiece named in a note",
        judge=_word_length,
    ),
)


def _stripping(value: Any, parts: Parts) -> tuple[Fate, str]:
    """Looked at with the model's name, which decides in llama.cpp: see `_strip`."""
    return Fate.CARRIED, ""


def _single_word(value: Any, parts: Parts) -> tuple[Fate, str]:
    added = parts.tokenizer.get("added_tokens") or []
    texts = [t["content"] for t in added if t.get("single_word")]
    return (Fate.NOTED if value else Fate.NEUTRAL), (
        f"the tokenizer takes {', '.join(texts[:4])} for a token only where no letter or digit is "
        "beside it, llama.cpp everywhere"
    )


def _normalized(value: Any, parts: Parts) -> tuple[Fate, str]:
    """Looked for in the normalized text: the same where normalizing leaves the token as it is."""
    moved = [
        str(t["content"])
        for t in parts.tokenizer.get("added_tokens") or []
        if t.get("normalized") and _moves(str(t["content"]), parts)
    ]
    if not value or not moved:
        return Fate.NEUTRAL, ""
    return Fate.NOTED, (
        f"the tokenizer looks for {', '.join(moved[:4])} in the normalized text, llama.cpp in the "
        "text as it is: ids beside it can differ"
    )


def _moves(text: str, parts: Parts) -> bool:
    left = text
    for step in steps(parts.tokenizer.get("normalizer"), "normalizers"):
        left = normalized(step, left) or ""
    return left not in (text, text.replace(" ", SPACE))


ADDED = (
    carried("id", "its place in `tokens`"),
    carried("content", "`tokens`"),
    carried("special", "`token_type`: control, or user-defined"),
    Field(name="lstrip", how="named in a note where it is true", judge=_stripping),
    Field(
        name="rstrip",
        how="`general.name`, where tokens are as Phi-3's; else named in a note where it is true",
        judge=_stripping,
    ),
    Field(name="single_word", how="named in a note where it is true", judge=_single_word),
    Field(
        name="normalized",
        how="changes nothing where the token stays as it is; else named in a note",
        judge=_normalized,
    ),
)


def _decoder(step: Any, parts: Parts) -> tuple[Fate, str]:
    kind = step.get("type")
    if parts.words and kind == "WordPiece":
        return Fate.CARRIED, ""
    if kind == "ByteLevel" if parts.bytes_ else _like_sentencepiece(step):
        return Fate.CARRIED, ""
    if kind == "Fuse":
        return Fate.NEUTRAL, ""
    return Fate.NOTED, f"llama.cpp has no decoder {short(step)}: texts of the same ids can differ"


def _like_sentencepiece(step: Mapping[str, Any]) -> bool:
    kind = step.get("type")
    if kind == "Replace":
        return step.get("pattern") == {"String": SPACE} and step.get("content") == " "
    if kind == "Strip":
        return step.get("content") == " " and step.get("stop", 0) == 0
    return kind in ("ByteFallback", "Metaspace")


_DECODES = "carried where it is that of the vocabulary's kind, else named in a note"
DECODERS = tuple(
    Field(name=name, how=_DECODES, judge=_decoder)
    for name in (
        "ByteLevel",
        "Replace",
        "ByteFallback",
        "Fuse",
        "Strip",
        "Metaspace",
        "WordPiece",
        "BPEDecoder",
        "CTC",
    )
)


def _template(step: Any, parts: Parts) -> tuple[Fate, str]:
    single = step.get("single") or []
    kinds = ["A" if "Sequence" in piece else "special" for piece in single]
    if kinds.count("A") == 1 and len(kinds) <= 3 and kinds[1:-1] in ([], ["A"]):
        if kinds in (["special", "special", "A"], ["A", "special", "special"]):
            return _frame_refused(step)
        return Fate.CARRIED, ""
    return _frame_refused(step)


def _frame_refused(step: Any) -> tuple[Fate, str]:
    return Fate.REFUSED, (
        f"the post-processor frames a text as {short(step.get('single'))}; llama.cpp adds one "
        "token before and one after it at most"
    )


POST_PROCESSORS = (
    Field(
        name="TemplateProcessing",
        how="`add_bos_token`, `add_eos_token` and the ids; more tokens than those are refused",
        judge=_template,
    ),
    neutral("ByteLevel", "changes offsets alone"),
    carried("BertProcessing", "`add_bos_token`, `add_eos_token` and the ids"),
    carried("RobertaProcessing", "`add_bos_token`, `add_eos_token` and the ids"),
)
TOP = (
    neutral("version", "of the file's form"),
    neutral("truncation", "a setting of batches, which runtimes have on their own"),
    neutral("padding", "a setting of batches, which runtimes have on their own"),
    *(
        carried(name, "see below")
        for name in (
            "added_tokens",
            "normalizer",
            "pre_tokenizer",
            "post_processor",
            "decoder",
            "model",
        )
    ),
)

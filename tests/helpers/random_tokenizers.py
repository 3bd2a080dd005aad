"""Random tokenizers of every kind that the library `tokenizers` has, by number."""

from __future__ import annotations

import json
import random
from functools import cache
from typing import Any

from kanna.tokenizer import _pre

TEXT = (
    "the quick brown fox jumps over the lazy dog. A model reads text and writes text, again and "
    "again; numbers 1 2 3 10 100 1234, code def f(x): return x + 1.\n"
    "Ünïcode, 日本語 émoji 🙂 too.\n"
) * 8
MARK = "▁"
Json = dict[str, Any]


def make(number: int) -> Json:
    """The object of a tokenizer.json, the same for the same number."""
    pick = random.Random(number)
    kind = pick.choice(["bytes"] * 5 + ["spm"] * 5 + ["unigram", "wordpiece", "words"])
    data = json.loads(trained(kind))
    calm = pick.random() < 0.6  # one change alone: several hide one another behind a refusal
    steps = [
        lambda: _vary_model(pick, data),
        lambda: data.update(normalizer=_normalizer(pick, data["normalizer"])),
        lambda: data.update(pre_tokenizer=_pre_tokenizer(pick, kind, data["pre_tokenizer"])),
        lambda: _vary_decoder(pick, data),
        lambda: _add_tokens(pick, data, odd=True),
        lambda: _frame(pick, data),
    ]
    for step in pick.sample(steps[:-1], 1) if calm else steps[:-1]:
        step()
    if "</s>" not in {a["content"] for a in data["added_tokens"]}:
        _add_tokens(pick, data, odd=False)
    if not calm or pick.random() < 0.5:
        steps[-1]()
    return data


@cache
def trained(kind: str) -> str:
    """A small tokenizer of a kind, trained once."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    made: Any
    if kind == "bytes":
        made, steps = Tokenizer(models.BPE()), pre_tokenizers
        made.pre_tokenizer = steps.Sequence(
            [
                steps.Split(Regex(_pre.QWEN2), "isolated", False),
                steps.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        made.decoder = decoders.ByteLevel()
        trainer: Any = trainers.BpeTrainer(
            vocab_size=380, initial_alphabet=steps.ByteLevel.alphabet(), show_progress=False
        )
    elif kind == "spm":
        made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        made.normalizer = normalizers.Sequence(
            [normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)]
        )
        made.decoder = decoders.Sequence(
            [
                decoders.Replace(MARK, " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
        pieces = [f"<0x{b:02X}>" for b in range(256)]
        trainer = trainers.BpeTrainer(
            vocab_size=380, special_tokens=["<unk>", *pieces], show_progress=False
        )
    elif kind == "unigram":
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        made.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=200, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
        )
    elif kind == "wordpiece":
        made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.normalizer = normalizers.BertNormalizer()
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(
            vocab_size=200,
            special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
            show_progress=False,
        )
    else:
        made = Tokenizer(models.WordLevel(unk_token="<unk>"))
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.WordLevelTrainer(special_tokens=["<unk>"], show_progress=False)
    made.train_from_iterator([TEXT], trainer)
    data = json.loads(made.to_str())
    if kind == "spm":  # the pieces of bytes are of the model, not added tokens
        data["added_tokens"] = data["added_tokens"][:1]
    return json.dumps(data)


def _vary_model(pick: random.Random, data: Json) -> None:
    model = data["model"]
    if model["type"] != "BPE":
        return
    if pick.random() < 0.3:
        model["merges"] = [" ".join(m) for m in model["merges"]]
    for name, values in {
        "ignore_merges": [True],
        "dropout": [0.0, 0.5],
        "byte_fallback": [not model["byte_fallback"]],
        "fuse_unk": [not model["fuse_unk"]],
        "continuing_subword_prefix": ["", "##"],
        "end_of_word_suffix": ["", "</w>"],
    }.items():
        if pick.random() < 0.06:
            model[name] = pick.choice(values)


def _normalizer(pick: random.Random, given: Json | None) -> Json | None:
    if pick.random() < 0.6:
        return given
    step: Json = pick.choice(
        [
            *({"type": t} for t in ("NFC", "NFD", "NFKC", "NFKD", "Nmt", "Lowercase")),
            {"type": "StripAccents"},
            {"type": "Strip", "strip_left": pick.random() < 0.5, "strip_right": True},
            {"type": "Prepend", "prepend": pick.choice([MARK, "x"])},
            {"type": "Replace", "pattern": {"String": "''"}, "content": '"'},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
            {"type": "Replace", "pattern": {"String": " "}, "content": MARK},
            {"type": "ByteLevel"},
        ]
    )
    old = [] if given is None else given.get("normalizers", [given])
    steps = [step, *old] if pick.random() < 0.5 else [*old, step]
    return pick.choice([step, {"type": "Sequence", "normalizers": steps}, None])


def _pre_tokenizer(pick: random.Random, kind: str, given: Json | None) -> Json | None:
    if kind == "bytes" and pick.random() < 0.7:
        names = ("llama-bpe", "qwen2", "tekken", "gpt-4o", "smollm", "gpt-2", "deepseek-v3")
        steps, _ = _pre.steps_of(pick.choice(names))
        if pick.random() < 0.15:
            steps[-1]["add_prefix_space"] = True
        return {"type": "Sequence", "pretokenizers": steps}
    if pick.random() < 0.6:
        return given
    step: Json = pick.choice(
        [
            *({"type": t} for t in ("Whitespace", "WhitespaceSplit", "BertPreTokenizer")),
            {"type": "UnicodeScripts"},
            {"type": "CharDelimiterSplit", "delimiter": " "},
            {"type": "Punctuation", "behavior": pick.choice(["Isolated", "Contiguous"])},
            {"type": "Digits", "individual_digits": pick.random() < 0.5},
            {
                "type": "Split",
                "pattern": pick.choice([{"String": " "}, {"Regex": r"\d"}, {"Regex": _pre.QWEN2}]),
                "behavior": pick.choice(["Isolated", "Removed", "MergedWithPrevious"]),
                "invert": pick.random() < 0.3,
            },
            {
                "type": "Metaspace",
                "replacement": pick.choice([MARK, MARK, "_"]),
                "prepend_scheme": pick.choice(["always", "first", "never"]),
                "split": pick.random() < 0.5,
            },
            {
                "type": "ByteLevel",
                "add_prefix_space": pick.random() < 0.5,
                "trim_offsets": True,
                "use_regex": pick.random() < 0.5,
            },
        ]
    )
    both = [step] if given is None else [step, given]
    return pick.choice([step, {"type": "Sequence", "pretokenizers": both}, None])


def _vary_decoder(pick: random.Random, data: Json) -> None:
    if pick.random() < 0.2:
        data["decoder"] = pick.choice(
            [
                None,
                {"type": "Fuse"},
                {"type": "BPEDecoder", "suffix": "</w>"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
                {
                    "type": "Metaspace",
                    "replacement": MARK,
                    "prepend_scheme": "always",
                    "split": True,
                },
                {
                    "type": "ByteLevel",
                    "add_prefix_space": True,
                    "trim_offsets": True,
                    "use_regex": True,
                },
                {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
            ]
        )


def _add_tokens(pick: random.Random, data: Json, *, odd: bool) -> None:
    """The tokens that frame a text; odd: and others, with flags in every combination."""
    vocabulary = data["model"]["vocab"]
    first = len(vocabulary)
    texts = ["<s>", "</s>", "<|user|>", " spaced ", "fox", "\n\n", "é", "a b", "<|e|>", "12"]
    known = {a["content"] for a in data["added_tokens"]}
    chosen = ["<s>", "</s>", *(pick.sample(texts[2:], pick.randint(0, 4)) if odd else [])]
    names = vocabulary if isinstance(vocabulary, dict) else {t for t, _ in vocabulary}
    for text in chosen:
        if text in known or text in names:
            continue
        flags = ("single_word", "lstrip", "rstrip", "normalized")
        data["added_tokens"].append(
            {"id": first, "content": text}
            | {f: odd and pick.random() < 0.15 for f in flags}
            | {"special": not odd or pick.random() < 0.7}
        )
        first += 1


def _frame(pick: random.Random, data: Json) -> None:
    ids = {a["content"]: a["id"] for a in data["added_tokens"]}
    data["post_processor"] = None
    frame = pick.choice([[], ["<s>"], ["<s>"], ["<s>", "</s>"], ["</s>"], ["<s>", "<s>"]])
    if not frame or pick.random() < 0.1:
        return
    token = [{"SpecialToken": {"id": t, "type_id": 0}} for t in frame]
    body = {"Sequence": {"id": "A", "type_id": 0}}
    single = [*token[:1], body, *token[1:]] if frame[0] == "<s>" else [body, *token]
    data["post_processor"] = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {t: {"id": t, "ids": [ids[t]], "tokens": [t]} for t in set(frame)},
    }

"""Which of llama.cpp's pre-tokenizers splits text the way a byte-level BPE tokenizer.json does.

A pre-tokenizer is recognised by what it does: its steps in order, written in one normal form, and
compared with the table below. llama.cpp's names stand for code paths; where several names mean the
same splitting, behaviours that go with the name (`ignore_merges`) decide.
"""

from __future__ import annotations

import json
import re
from typing import Any

from kanna.errors import UnsupportedError
from kanna.tokenizer import library

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_CASED = r"[^\r\n\p{L}\p{N}]?"
_TAIL_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _cased(ending: str) -> str:
    return f"{_CASED}[{_UPPER}]*[{_LOWER}]+{ending}|{_CASED}[{_UPPER}]+[{_LOWER}]*{ending}"


LLAMA3 = rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}{{1,3}}|{_TAIL}"
QWEN2 = rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}|{_TAIL}"
QWEN35 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = rf"{_cased('')}|\p{{N}}|{_TAIL_SLASH}"
GPT4O = rf"{_cased(_CONTRACTIONS + '?')}|\p{{N}}{{1,3}}|{_TAIL_SLASH}"
DEEPSEEK3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
    r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_BYTES = "bytes"
_GPT2 = "gpt2"

# Steps → llama.cpp's name. `split:` isolates the matches of a regex, `digits` isolates each digit,
# `gpt2` is ByteLevel with its own regex, `bytes` is ByteLevel without it.
_KNOWN: dict[tuple[str, ...], str] = {
    (f"split:{LLAMA3}", _BYTES): "llama-bpe",
    (f"split:{QWEN2}", _BYTES): "qwen2",
    (f"split:{QWEN35}", _BYTES): "qwen35",
    (f"split:{TEKKEN}", _BYTES): "tekken",
    (f"split:{GPT4O}", _BYTES): "gpt-4o",
    ("digits", _GPT2): "smollm",
    (_GPT2,): "gpt-2",
    (
        r"split:\p{N}{1,3}",
        r"split:[一-龥\u3040-ゟ゠-ヿ]+",
        f"split:{DEEPSEEK3}",
        _BYTES,
    ): "deepseek-v3",
}

_ESCAPED = re.compile(r"\\u([0-9A-Fa-f]{4})|\\([\"'/])|\\.|[\r\n\t]", re.DOTALL)
_CONTROLS = {"\r": r"\r", "\n": r"\n", "\t": r"\t"}


def _one_form(step: str) -> str:
    """A pattern in one of its spellings: files hold a line feed as itself or as its escape."""

    def respell(match: re.Match[str]) -> str:
        point, quote = match.groups()
        if point is not None:
            return chr(int(point, 16))
        return quote or _CONTROLS.get(match[0], match[0])

    return _ESCAPED.sub(respell, step) if step.startswith("split:") else step


_BY_FORM = {tuple(map(_one_form, steps)): name for steps, name in _KNOWN.items()}

# llama.cpp's `llama-bpe` looks a whole word up before merging; a tokenizer that does not needs a
# name with the same splitting and no such step.
_LOOKUP = ("llama-bpe", "tekken")
_WITHOUT_LOOKUP = {"llama-bpe": "dbrx"}


def detect(tokenizer: dict[str, Any]) -> str:
    """llama.cpp's `tokenizer.ggml.pre` for a tokenizer.json.

    UnsupportedError when none splits the same way.
    """
    steps = tuple(_one_form(step) for step in _steps(tokenizer.get("pre_tokenizer")))
    name = _BY_FORM.get(steps)
    if not name:
        raise UnsupportedError(
            f"the pre-tokenizer is not one llama.cpp has: {_short(tokenizer.get('pre_tokenizer'))}",
            expected="one that splits text like " + ", ".join(sorted(set(_KNOWN.values()))),
            todo="give a GGUF of this model if one exists; ids would silently differ with any "
            "other pre-tokenizer",
        )
    model = tokenizer.get("model", {})
    lookup = bool(model.get("ignore_merges"))
    if not lookup:
        name = _WITHOUT_LOOKUP.get(name, name)
    if lookup != (name in _LOOKUP) and not _merges_make_words(tokenizer):
        raise UnsupportedError(
            f"the tokenizer {'looks' if lookup else 'does not look'} whole words up before it "
            f"merges (ignore_merges), llama.cpp's {name} does the opposite",
            expected="merges that make every token of the vocabulary",
            todo="write a folder of another runtime: --preset mlx:q8 or onnx:q4",
        )
    return name


def _merges_make_words(tokenizer: dict[str, Any]) -> bool:
    """Whether merging alone makes each word that is a token: then looking words up changes none."""
    import tokenizers

    model = tokenizer["model"]
    added = {a["content"] for a in tokenizer.get("added_tokens") or []}
    pairs = [tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    with library.refusals("tokenizer.json has merges that its vocabulary does not fit"):
        merging: Any = tokenizers.models.BPE(vocab=model["vocab"], merges=pairs)  # type: ignore[attr-defined]
        return all(len(merging.tokenize(w)) == 1 for w in model["vocab"] if w not in added)


# Names of other models with the same splitting → the name above.
_SAME = {
    **dict.fromkeys(("llama3", "llama-v3", "pixtral", "falcon3", "lfm2"), "llama-bpe"),
    **dict.fromkeys(("dbrx", "smaug-bpe"), "llama-bpe"),
    **dict.fromkeys(("starcoder", "refact", "command-r", "codeshell", "exaone"), "smollm"),
    **dict.fromkeys(("phi-2", "mpt", "olmo"), "gpt-2"),
    "llama4": "gpt-4o",
}


def steps_of(name: str) -> tuple[list[dict[str, Any]], bool]:
    """The pre-tokenizer steps for one of llama.cpp's names, and whether words are looked up."""
    known = next((steps for steps, n in _KNOWN.items() if n == _SAME.get(name, name)), None)
    if known is None:
        raise UnsupportedError(f"the pre-tokenizer {name!r} has no known form in tokenizer.json")
    made: list[dict[str, Any]] = []
    for step in known:
        if step == "digits":
            made.append({"type": "Digits", "individual_digits": True})
        elif step in (_GPT2, _BYTES):
            made.append(
                {
                    "type": "ByteLevel",
                    "add_prefix_space": False,
                    "trim_offsets": True,
                    "use_regex": step == _GPT2,
                }
            )
        else:
            pattern = {"Regex": step.removeprefix("split:")}
            made.append(
                {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
            )
    return made, _SAME.get(name, name) in _LOOKUP and name not in (
        "dbrx",
        "smaug-bpe",
    )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 300 else text[:300] + "…"


def _steps(node: Any) -> list[str]:
    """The pre-tokenizer as a list of steps in normal form; unknown steps stay as their JSON."""
    if node is None:
        return []
    kind = node.get("type")
    if kind == "Sequence":
        return [step for child in node.get("pretokenizers", []) for step in _steps(child)]
    if kind == "ByteLevel" and not node.get("add_prefix_space"):
        return [_GPT2 if node.get("use_regex", True) else _BYTES]
    if kind == "Digits" and node.get("individual_digits"):
        return ["digits"]
    # Keeping every match apart, or removing all but the matches: the same pieces, since the known
    # patterns match every character of a text.
    apart = (node.get("behavior"), bool(node.get("invert"))) in (
        ("Isolated", False),
        ("Removed", True),
    )
    if kind == "Split" and apart and "Regex" in (pattern := node.get("pattern", {})):
        return [f"split:{pattern['Regex']}"]
    return [json.dumps(node, ensure_ascii=False, sort_keys=True)]

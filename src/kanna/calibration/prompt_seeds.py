"""How texts begin that a model writes by itself, and what happens where it ends one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kanna.errors import FormatError
from kanna.model import Model
from kanna.tokenizer.chat import render

TEXT, CHAT = "text", "chat"
WORDS = ("", "The", "", "# ", "", "1. ", "", "La", "", "import", "", '"', "", "In", "", "Q: ")
"""After the token texts begin with.

Nothing, or one of these, so that several kinds of text come up.
"""
QUESTION = 128
"""Tokens of a question at most: base models do not end it."""
_MARK = "\u2045kanna\u2046"


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """A conversation around what is sampled, in token ids.

    Attributes:
        before: The question.
        between: Question and answer; ends: what ends each of the two.
    """

    before: list[int]
    between: list[int]
    ends_question: frozenset[int]
    ends_answer: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Openings:
    """first: what every sequence starts with.

    Attributes:
        words: Openings of plain text.
        turns: None without a chat template.
    """

    first: list[int]
    words: list[list[int]]
    ends: frozenset[int]
    turns: Turns | None

    @property
    def kinds(self) -> tuple[str, ...]:
        return (TEXT, CHAT) if self.turns else (TEXT,)


def openings(model: Model, tokenizer: Any) -> Openings:
    """Openings for a model, by its tokenizer (of the library tokenizers) and its chat template."""

    def special(kind: str) -> int | None:
        found = model.meta(f"tokenizer.ggml.{kind}_token_id")
        return None if found is None else int(found)

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    ends = frozenset(t for t in map(special, ("eos", "eot")) if t is not None)
    begin = special("bos")
    if begin is None:
        # What stands between texts in training begins them, too.
        begin = special("eos") if special("eos") is not None else encode("\n")[0]
    assert begin is not None
    return Openings(
        first=[begin],
        words=[encode(word) if word else [] for word in WORDS],
        ends=ends,
        turns=_turns(model, tokenizer, ends, begin),
    )


def _turns(model: Model, tokenizer: Any, ends: frozenset[int], begin: int) -> Turns | None:
    template = model.meta("tokenizer.chat_template")
    if template is None:
        return None
    tokens = model.meta("tokenizer.ggml.tokens", ())

    def token(kind: str) -> str:
        at = model.meta(f"tokenizer.ggml.{kind}_token_id")
        return str(tokens[int(at)]) if at is not None and 0 <= int(at) < len(tokens) else ""

    try:
        text = render(
            template,
            [{"role": "user", "content": _MARK}],
            bos=token("bos"),
            eos=token("eos"),
            add_generation_prompt=True,
        )
    except FormatError:
        return None
    before, found, between = text.partition(_MARK)
    if not found:
        return None
    first, second = (
        list(tokenizer.encode(part, add_special_tokens=False).ids) for part in (before, between)
    )
    if not second:
        return None
    adds = model.meta("tokenizer.ggml.add_bos_token", model.meta("tokenizer.ggml.model") == "llama")
    if first[:1] != [begin] and (adds or not first):
        first.insert(0, begin)
    added = tokenizer.get_added_tokens_decoder()
    turn = frozenset(second[:1])
    # A line break ends a question where a template has no token for it, but not an answer.
    return Turns(
        before=first,
        between=second,
        ends_question=ends | turn,
        ends_answer=ends
        | (turn if second[0] in added and added[second[0]].special else frozenset()),
    )


@dataclass(slots=True, kw_only=True)
class Writer:
    """One sequence in the making.

    Says which token must come next, or takes the one that was sampled.
    """

    openings: Openings
    kind: str
    number: int
    ids: list[int] = field(default_factory=list[int])
    _forced: list[int] = field(default_factory=list[int])
    _asking: bool = False
    _length: int = 0

    def __post_init__(self) -> None:
        if self.kind == TEXT:
            self._forced = list(self.openings.first)
        self._open()

    def _open(self) -> None:
        turns = self.openings.turns
        if self.kind == CHAT and turns is not None:
            self._forced += turns.before
            self._asking, self._length = True, 0
        else:
            words = self.openings.words
            self._forced += words[self.number % len(words)]
            self.number += 1

    def next(self, sampled: int) -> int:
        """The token that comes next: a forced one, or `sampled`."""
        if self._forced:
            self.ids.append(self._forced.pop(0))
            return self.ids[-1]
        self.ids.append(sampled)
        self._length += 1
        turns = self.openings.turns
        if self.kind == CHAT and turns is not None:
            if self._asking and (sampled in turns.ends_question or self._length >= QUESTION):
                # The token that ended the question is the first of what follows it.
                self._forced += (
                    turns.between[1:] if sampled in turns.ends_question else turns.between
                )
                self._asking = False
            elif not self._asking and sampled in turns.ends_answer:
                self._open()
        elif sampled in self.openings.ends:
            self._forced += [t for t in self.openings.first if t != sampled]
            self._open()
        return sampled


def writers(found: Openings, numbers: Sequence[int]) -> list[Writer]:
    """A writer for each sequence of these numbers, the kinds in turns."""
    kinds = found.kinds
    return [
        Writer(openings=found, kind=kinds[n % len(kinds)], number=n // len(kinds)) for n in numbers
    ]

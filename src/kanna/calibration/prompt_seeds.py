"""Prompt seeds: how texts begin that a model writes by itself, and how they go on at an end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kanna.errors import FormatError
from kanna.model import Model
from kanna.tokenizer.chat import render

TEXT, CHAT = "text", "chat"
WORDS = ("", "The", "", "# ", "", "1. ", "", "La", "", "import", "", '"', "", "In", "", "Q: ")
"""What follows the first token of a text: nothing or a word, for several kinds of text."""
QUESTION = 128
"""Tokens of a question at most: base models do not end it."""
_MARK = "\u2045kanna\u2046"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatSeed:
    """The fixed parts of a conversation whose question and answer are sampled, in token ids.

    Attributes:
        before: What comes before the question.
        between: What comes between question and answer.
        ends_question: Ids that end the question.
        ends_answer: Ids that end the answer.
    """

    before: list[int]
    between: list[int]
    ends_question: frozenset[int]
    ends_answer: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSeeds:
    """How sequences of a model begin, in token ids.

    Attributes:
        first: What every plain text starts with.
        words: What follows it, one of these in turn.
        ends: Ids that end a text.
        chat: None without a chat template.
    """

    first: list[int]
    words: list[list[int]]
    ends: frozenset[int]
    chat: ChatSeed | None

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of text that can be sampled."""
        return (TEXT, CHAT) if self.chat else (TEXT,)


def prompt_seeds(model: Model, tokenizer: Any) -> PromptSeeds:
    """Prompt seeds of a model, by its tokenizer (of the library tokenizers) and chat template."""

    def special(kind: str) -> int | None:
        token = model.meta(f"tokenizer.ggml.{kind}_token_id")
        return None if token is None else int(token)

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    ends = frozenset(t for t in map(special, ("eos", "eot")) if t is not None)
    begin = special("bos")
    if begin is None:
        # What stands between texts in training begins them, too.
        begin = special("eos") if special("eos") is not None else encode("\n")[0]
    assert begin is not None
    return PromptSeeds(
        first=[begin],
        words=[encode(word) if word else [] for word in WORDS],
        ends=ends,
        chat=_chat_seed(model, tokenizer, ends, begin),
    )


def _chat_seed(model: Model, tokenizer: Any, ends: frozenset[int], begin: int) -> ChatSeed | None:
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
    before, mark, between = text.partition(_MARK)
    if not mark:
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
    return ChatSeed(
        before=first,
        between=second,
        ends_question=ends | turn,
        ends_answer=ends
        | (turn if second[0] in added and added[second[0]].special else frozenset()),
    )


@dataclass(slots=True, kw_only=True)
class Writer:
    """One sequence while it is sampled: gives the token that must come next, or a sampled one.

    Attributes:
        seeds: How sequences begin.
        kind: TEXT or CHAT.
        number: Which of the words begins the next text.
        ids: The tokens so far.
    """

    seeds: PromptSeeds
    kind: str
    number: int
    ids: list[int] = field(default_factory=list[int])
    _forced: list[int] = field(default_factory=list[int])
    _asking: bool = False
    _length: int = 0

    def __post_init__(self) -> None:
        if self.kind == TEXT:
            self._forced = list(self.seeds.first)
        self._open()

    def _open(self) -> None:
        chat = self.seeds.chat
        if self.kind == CHAT and chat is not None:
            self._forced += chat.before
            self._asking, self._length = True, 0
        else:
            words = self.seeds.words
            self._forced += words[self.number % len(words)]
            self.number += 1

    def next(self, sampled: int) -> int:
        """The token that comes next: a forced one, or `sampled`."""
        if self._forced:
            self.ids.append(self._forced.pop(0))
            return self.ids[-1]
        self.ids.append(sampled)
        self._length += 1
        chat = self.seeds.chat
        if self.kind == CHAT and chat is not None:
            if self._asking and (sampled in chat.ends_question or self._length >= QUESTION):
                # The token that ended the question is the first of what follows it.
                self._forced += chat.between[1:] if sampled in chat.ends_question else chat.between
                self._asking = False
            elif not self._asking and sampled in chat.ends_answer:
                self._open()
        elif sampled in self.seeds.ends:
            self._forced += [t for t in self.seeds.first if t != sampled]
            self._open()
        return sampled


def writers(seeds: PromptSeeds, numbers: Sequence[int]) -> list[Writer]:
    """A writer for each sequence of these numbers, the kinds by turns."""
    kinds = seeds.kinds
    return [
        Writer(seeds=seeds, kind=kinds[n % len(kinds)], number=n // len(kinds)) for n in numbers
    ]

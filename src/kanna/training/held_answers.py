"""What models answer to held-out prompts, greedily: samples for the page, and calls of tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kanna._util.progress import Progress
from kanna.runtimes.base import Engine
from kanna.tasks.tool_calls import calls
from kanna.training.examples import Example
from kanna.training.tokens import ChatTokenizer

_SHOWN, _CALLING, _FEW_CALLING = 3, 32, 4
"""Prompts that a page shows, and prompts with tools that are asked at most: by all, by `adapt`."""
ROOM = 128
"""Tokens of an answer at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldPrompt:
    """A held-out prompt.

    Attributes:
        text: As the model reads it.
        wanted: The answer that was held out.
        tools: What it offers.
        chat: Whether the text is a chat template's, with its own first tokens.
        shown: Whether the page shows it.
    """

    text: str
    wanted: str
    tools: Sequence[Mapping[str, Any]]
    chat: bool
    shown: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CallCount:
    """Answers to prompts that offer tools.

    Attributes:
        asked: Prompts.
        valid: Answers that call a tool with arguments that it takes.
    """

    asked: int
    valid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Those of one model.

    Attributes:
        texts: To every prompt.
        calls: Of those that offer tools; None where none does.
    """

    texts: Sequence[str]
    calls: CallCount | None


def held_prompts(examples: Sequence[Example], chats: ChatTokenizer) -> list[HeldPrompt]:
    """Prompts to answer: the first few, and those with tools.

    Args:
        examples: Held-out examples; what has no prompt is left out.
        chats: Renders them.
    """
    prompts: list[HeldPrompt] = []
    calling = 0
    for example in examples:
        shown = len(prompts) < _SHOWN
        counts = bool(example.tools) and calling < _CALLING
        if not (shown or counts):
            continue
        text, wanted = chats.question(example)
        if not text:
            continue
        calling += counts
        prompts.append(
            HeldPrompt(
                text=text,
                wanted=wanted,
                tools=example.tools if counts else (),
                chat=bool(example.messages),
                shown=shown,
            )
        )
    return prompts


def calling_prompts(examples: Sequence[Example], chats: ChatTokenizer) -> list[HeldPrompt]:
    """A few prompts with tools.

    Args:
        examples: Held-out examples.
        chats: Renders them.
    """
    prompts = held_prompts([one for one in examples if one.tools], chats)
    return [one for one in prompts if one.tools][:_FEW_CALLING]


def answer(
    engine: Engine, prompts: Sequence[HeldPrompt], chats: ChatTokenizer, progress: Progress
) -> Answers:
    """Answer prompts, and count the calls.

    Args:
        engine: The model.
        prompts: What is asked.
        chats: Makes tokens of it.
        progress: Gets one prompt after another.
    """
    texts: list[str] = []
    valid = 0
    for prompt in prompts:
        ids: list[int] = chats.tokenizer(
            prompt.text, add_special_tokens=not prompt.chat, verbose=False
        )["input_ids"]
        limit = min(ROOM if prompt.tools else ROOM // 2, engine.context - len(ids))
        texts.append("".join(engine.generate(ids, max_tokens=limit)) if limit > 0 else "")
        valid += is_valid_call(texts[-1], prompt)
        progress.advance(1)
    asked = sum(bool(prompt.tools) for prompt in prompts)
    return Answers(texts=texts, calls=CallCount(asked=asked, valid=valid) if asked else None)


def is_valid_call(text: str, prompt: HeldPrompt) -> bool:
    """Whether an answer calls a tool that its prompt offers, with arguments that it takes.

    Args:
        text: The answer.
        prompt: Its prompt; one without tools has no valid call.
    """
    if not prompt.tools:
        return False
    try:
        return not isinstance(calls(text, prompt.tools), str)
    except (KeyError, TypeError):  # a schema with more than the tasks read, or less
        return False

"""A model's answers to the questions of tasks: greedy, through its chat template if it has one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from kanna._util.progress import Progress
from kanna.errors import FormatError, GateError, TemplateLimitError
from kanna.generation import chat_ids
from kanna.model import F32
from kanna.runtimes.base import Engine
from kanna.tasks import ChosenTask
from kanna.tasks.base import TaskAnswer, TaskPrompt

CONTEXT = 2048
"""Tokens that a question and its answers have room for."""
_LEAST = 16
"""Tokens that an answer must have room for."""
_MARKERS = re.compile(r"<\|[^|<>\s]{1,40}\|>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>")
# Models that think aloud where they may would be cut before they answer; other templates know no
# such name.
_VARIABLES = {"enable_thinking": False}


def answers(
    engine: Engine, chosen: ChosenTask, *, chat: bool, progress: Progress
) -> list[TaskAnswer]:
    """An answer to every question of a task.

    Args:
        engine: The model.
        chosen: The task.
        chat: Whether questions are put through the chat template.
        progress: Gets one question after another.

    Raises:
        GateError: The model gives logits that are not numbers.
    """
    made: list[TaskAnswer] = []
    for example in chosen.examples:
        prompt = chosen.task.prompt(example, chat)
        made.append(_answer(engine, prompt, chat=chat, max_tokens=chosen.task.max_tokens))
        progress.advance(1, chosen.name)
    return made


def require_numbers(engine: Engine) -> None:
    """Raise GateError where a model's logits are not numbers: it would answer nonsense for ever."""
    ids = engine.tokenize("The sun rises in the", add_bos=True) or [engine.bos or 0]
    _finite(engine, engine.logits(ids, first=len(ids) - 1))


def _finite(engine: Engine, logits: F32) -> F32:
    if not np.isfinite(logits).all():
        raise GateError(
            f"{engine.path} gives logits that are not numbers",
            todo="convert again; do not use it",
        )
    return logits


def _answer(engine: Engine, prompt: TaskPrompt, *, chat: bool, max_tokens: int) -> TaskAnswer:
    if chat and not engine.chat_template:
        return TaskAnswer(failure="it carries no chat template")
    try:
        if prompt.choices:
            return _choose(engine, prompt, chat)
        most = prompt.max_tokens or max_tokens
        return _converse(engine, prompt, chat=chat, max_tokens=most)
    except (FormatError, TemplateLimitError) as error:
        return TaskAnswer(failure=f"its chat template refuses the question: {error.found}"[:200])


def _room(engine: Engine) -> int:
    """Tokens of question and answer: beyond those it was trained on, a model only babbles."""
    return min(engine.context, engine.trained_context or engine.context)


def _too_long(engine: Engine, ids: Sequence[int]) -> TaskAnswer:
    return TaskAnswer(failure=f"{len(ids)} tokens of question in a context of {_room(engine)}")


def _converse(engine: Engine, prompt: TaskPrompt, *, chat: bool, max_tokens: int) -> TaskAnswer:
    """Answer turn after turn; each sees the answers before it."""
    texts: list[str] = []
    reasons: list[str] = []
    messages: list[dict[str, Any]] = []
    for turn in prompt.turns:
        if chat:
            messages.append({"role": "user", "content": turn})
            ids = _chat_ids(engine, messages, prompt.tools)
        else:
            ids = engine.tokenize(turn, add_bos=True)
        limit = min(max_tokens, _room(engine) - len(ids))
        if limit < min(_LEAST, max_tokens):
            return _too_long(engine, ids)
        pieces = engine.generate(ids, max_tokens=limit, stop=prompt.stop)
        texts.append("".join(pieces))
        reasons.append(engine.last.reason)
        messages.append({"role": "assistant", "content": texts[-1]})
    markers = tuple(sorted(set(_MARKERS.findall(engine.chat_template or "")))) if chat else ()
    return TaskAnswer(texts=tuple(texts), reasons=tuple(reasons), markers=markers)


def _chat_ids(
    engine: Engine, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]
) -> list[int]:
    """Ids of a conversation; tools stand in the first message where the template has no place."""
    if not tools:
        return chat_ids(engine, messages, **_VARIABLES)
    if re.search(r"\btools\b", engine.chat_template or ""):
        return chat_ids(engine, messages, tools=list(tools), **_VARIABLES)
    first = {**messages[0], "content": f"{_tool_text(tools)}\n\n{messages[0]['content']}"}
    return chat_ids(engine, [first, *messages[1:]], **_VARIABLES)


def _tool_text(tools: Sequence[dict[str, Any]]) -> str:
    functions = "\n".join(json.dumps(tool["function"]) for tool in tools)
    return (
        f"You can call these functions:\n{functions}\nTo call one, answer with JSON alone: "
        '{"name": "…", "arguments": {…}}'
    )


def _choose(engine: Engine, prompt: TaskPrompt, chat: bool) -> TaskAnswer:
    """The choice of the highest log-probability per byte, so that long ones are not at a loss."""
    scores: list[float] = []
    for ids, first, size in _continued(engine, prompt, chat):
        if len(ids) > _room(engine):
            return _too_long(engine, ids)
        logits = _finite(engine, engine.logits(ids, first=first - 1)[:-1]).astype(np.float64)
        top = logits.max(axis=1, keepdims=True)
        total = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0]
        targets = np.array(ids[first:])
        scores.append(float((logits[np.arange(len(targets)), targets] - total).sum()) / size)
    picked = int(np.argmax(scores))
    return TaskAnswer(
        texts=(prompt.choices[picked],), reasons=("",), picked=picked, scores=tuple(scores)
    )


def _continued(
    engine: Engine, prompt: TaskPrompt, chat: bool
) -> Iterator[tuple[list[int], int, int]]:
    """Each choice after the question: ids, how many of them are shared by all, bytes of it."""
    question = prompt.turns[0]
    sizes = [len(choice.encode()) for choice in prompt.choices]
    if chat:
        start = _chat_ids(engine, [{"role": "user", "content": question}], ())
        for choice, size in zip(prompt.choices, sizes, strict=True):
            yield start + engine.tokenize(choice), len(start), size
        return
    # A token may reach over the end of the question: all are scored from where they still agree.
    start = engine.tokenize(question, add_bos=True)
    whole = [engine.tokenize(f"{question}{prompt.joint}{c}", add_bos=True) for c in prompt.choices]
    first = max(1, min(_shared(start, ids) for ids in whole))
    for ids, size in zip(whole, sizes, strict=True):
        yield ids, first, size


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids two sequences begin with alike."""
    differs = (n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return next(differs, min(len(a), len(b)))

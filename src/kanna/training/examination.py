"""What training changed beside what was learned: general text, and answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kanna.calibration.texts import FOLDER
from kanna.training.examples import Example
from kanna.training.held_answers import ROOM, HeldPrompt, is_valid_call
from kanna.training.objectives.base import held_out_loss
from kanna.training.tokens import ChatTokenizer, TokenizedExample

_TEXTS = ("prose_1.txt", "prose_3.txt", "code_python.txt", "languages_1.txt")
_WINDOW = 192
_NEW_TOKENS = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What a model says, before or after it was trained.

    Attributes:
        general_loss: Nats per token of built-in text that no one trains on.
        answers: To the prompts of held-out examples, greedily; "" to those without one.
    """

    general_loss: float
    answers: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleAnswer:
    """One held-out prompt, answered greedily.

    Attributes:
        prompt: As the model reads it.
        wanted: The answer that was held out.
        before: That of the base.
        after: That of the tuned model.
    """

    prompt: str
    wanted: str
    before: str
    after: str


def of(model: Any, chats: ChatTokenizer, examples: Sequence[Example]) -> Examination:
    """What a model says as it is now.

    Args:
        model: A model of transformers or PEFT, on its device.
        chats: Renders the prompts.
        examples: Held-out examples whose prompts are answered.
    """
    questions = [chats.question(one)[0] for one in examples]
    answers = [
        _answer(model, chats, prompt, chat=bool(one.messages)) if prompt else ""
        for prompt, one in zip(questions, examples, strict=True)
    ]
    return Examination(general_loss=_general_loss(model, chats.tokenizer), answers=answers)


def _general_loss(model: Any, tokenizer: Any) -> float:
    windows: list[TokenizedExample] = []
    for name in _TEXTS:
        text = (FOLDER / name).read_text(encoding="utf-8")[: _WINDOW * 12]
        ids: list[int] = tokenizer(text, verbose=False)["input_ids"][:_WINDOW]
        windows.append(TokenizedExample(ids=ids, labels=list(ids)))
    return held_out_loss(model, windows, next(model.parameters()).device)


def samples(
    chats: ChatTokenizer, examples: Sequence[Example], before: Examination, after: Examination
) -> list[SampleAnswer]:
    """Held-out prompts with the answers before and after; examples without a prompt give none.

    Args:
        chats: Renders the prompts.
        examples: Held-out examples.
        before: What the base says of them.
        after: What the tuned model does.
    """
    answered = zip(examples, before.answers, after.answers, strict=True)
    asked = ((*chats.question(one), old, new) for one, old, new in answered)
    return [
        SampleAnswer(prompt=prompt, wanted=wanted, before=old, after=new)
        for prompt, wanted, old, new in asked
        if prompt
    ]


def valid_calls(adapted: Any, chats: ChatTokenizer, prompts: Sequence[HeldPrompt]) -> int:
    """How many answers call a tool that the prompt offers, with arguments that it takes.

    Args:
        adapted: PEFT's model.
        chats: Makes tokens of the prompts.
        prompts: Held-out prompts with tools.
    """
    texts = [_answer(adapted, chats, one.text, chat=one.chat, most=ROOM) for one in prompts]
    return sum(is_valid_call(text, one) for text, one in zip(texts, prompts, strict=True))


def _answer(
    adapted: Any, chats: ChatTokenizer, prompt: str, *, chat: bool, most: int = _NEW_TOKENS
) -> str:
    import torch

    tokenizer = chats.tokenizer
    ids: list[int] = tokenizer(prompt, add_special_tokens=not chat, verbose=False)["input_ids"]
    ids = ids[-chats.most :]
    adapted.eval()
    given = torch.tensor([ids], device=next(adapted.parameters()).device)
    with torch.inference_mode():
        made = adapted.generate(
            input_ids=given,
            attention_mask=torch.ones_like(given),
            max_new_tokens=most,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
        )
    return str(tokenizer.decode(made[0, len(ids) :], skip_special_tokens=True)).strip()

"""What an adapter changed beside what it learned: general text, and answers."""

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
class SampleAnswer:
    """One held-out prompt, answered greedily.

    Attributes:
        prompt: As the model reads it.
        wanted: The answer that was held out.
        before: That of the base.
        after: With the adapter.
    """

    prompt: str
    wanted: str
    before: str
    after: str


def general_losses(adapted: Any, tokenizer: Any) -> tuple[float, float]:
    """Nats per token of built-in text that no one trains on: of the base, and with the adapter.

    Args:
        adapted: PEFT's model.
        tokenizer: That of transformers.
    """
    windows: list[TokenizedExample] = []
    for name in _TEXTS:
        text = (FOLDER / name).read_text(encoding="utf-8")[: _WINDOW * 12]
        ids: list[int] = tokenizer(text, verbose=False)["input_ids"][:_WINDOW]
        windows.append(TokenizedExample(ids=ids, labels=list(ids)))
    device = next(adapted.parameters()).device
    with adapted.disable_adapter():
        base = held_out_loss(adapted, windows, device)
    return base, held_out_loss(adapted, windows, device)


def sample_answers(
    adapted: Any, chats: ChatTokenizer, examples: Sequence[Example]
) -> list[SampleAnswer]:
    """Answers to held-out prompts before and after; examples without a prompt give none.

    Args:
        adapted: PEFT's model.
        chats: Renders the prompts.
        examples: Held-out examples.
    """
    samples: list[SampleAnswer] = []
    for example in examples:
        prompt, wanted = chats.question(example)
        if not prompt:
            continue
        with adapted.disable_adapter():
            before = _answer(adapted, chats, prompt, chat=bool(example.messages))
        after = _answer(adapted, chats, prompt, chat=bool(example.messages))
        samples.append(SampleAnswer(prompt=prompt, wanted=wanted, before=before, after=after))
    return samples


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

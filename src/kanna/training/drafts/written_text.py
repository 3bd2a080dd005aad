"""What a model writes on held-out prompts, always the likeliest token, for others to guess."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any

from kanna._util.progress import Progress
from kanna.benchmark.draft_prompts import TOKENS, DraftPrompt
from kanna.training.tokens import TokenizedExample, TokenizedPair, last_answer

_ALL = 512
"""Tokens that are written of all answers, about."""
_CONTEXT = 8
"""Tokens that a prompt has at least; of a text without one, half is the prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenText:
    """A prompt with what a model wrote after it.

    Attributes:
        ids: Of both.
        first: Where the model's own begins.
        states: The model's state of each token but the last, after its last norm, a tensor f32
            [len(ids) - 1, width] on the model's device.
    """

    ids: list[int]
    first: int
    states: Any


def prompts(held_out: Sequence[TokenizedExample | TokenizedPair]) -> list[DraftPrompt]:
    """Prompts of held-out examples, in their order, until enough would be written.

    As many tokens are written after each as its held-out answer has, at most TOKENS.

    Args:
        held_out: Examples in tokens; of a pair the chosen answer counts.
    """
    made: list[DraftPrompt] = []
    for one in held_out:
        example = plain(one)
        begin = last_answer(example.labels)
        if begin < _CONTEXT:
            begin = max(begin, len(example.ids) // 2)
        tokens = min(TOKENS, len(example.ids) - begin)
        if begin > 0 and tokens > 0:
            made.append(DraftPrompt(ids=example.ids[:begin], tokens=tokens))
        if sum(prompt.tokens for prompt in made) >= _ALL:
            break
    return made


def plain(one: TokenizedExample | TokenizedPair) -> TokenizedExample:
    """An example as it is, or a prompt with its chosen answer."""
    return one.example(one.chosen) if isinstance(one, TokenizedPair) else one


class TargetModel:
    """The model that is drafted for.

    Args:
        adapted: PEFT's model.
    """

    def __init__(self, adapted: Any) -> None:
        self.adapted = adapted
        self.causal = adapted.get_base_model()
        self.body = getattr(self.causal, self.causal.base_model_prefix)
        names = signature(self.causal.forward).parameters
        self._cache_name = "cache" if "cache" in names else "past_key_values"

    @property
    def device(self) -> Any:
        """Where it runs."""
        return next(self.causal.parameters()).device

    @contextmanager
    def still(self, *, tuned: bool = True) -> Generator[None]:
        """The model at rest: no gradients, and without what was trained unless `tuned`."""
        import torch

        training = self.adapted.training
        self.adapted.eval()
        try:
            with torch.no_grad():
                if tuned:
                    yield
                else:
                    with self.adapted.disable_adapter():
                        yield
        finally:
            self.adapted.train(training)

    def states(self, ids: Sequence[int]) -> Any:
        """The state of each token after the last norm, f32 [tokens, width]."""
        import torch

        given = torch.tensor([list(ids)], device=self.device)
        return self.body(input_ids=given, use_cache=False).last_hidden_state[0].float()

    def embedded(self, ids: Any) -> Any:
        """The embedding of each token, in the type that the model computes in, [tokens, width].

        Args:
            ids: A tensor of int64, [tokens].
        """
        return self.causal.get_input_embeddings()(ids)

    def logits(self, states: Any) -> Any:
        """What the model's head makes of states, f32 [tokens, vocabulary].

        Args:
            states: After a last norm, f32 [tokens, width].
        """
        return self.causal.get_output_embeddings()(states.to(self.causal.dtype)).float()

    def write(self, texts: Sequence[DraftPrompt], progress: Progress) -> list[WrittenText]:
        """Go on after every prompt, whatever ends a text.

        Args:
            texts: The prompts.
            progress: Where progress is reported.
        """
        progress.start("write", sum(one.tokens for one in texts), "tokens")
        written = [self._write(one, progress) for one in texts]
        progress.finish()
        return written

    def _write(self, prompt: DraftPrompt, progress: Progress) -> WrittenText:
        import torch
        import transformers

        cache = transformers.DynamicCache(config=self.causal.config)
        ids = list(prompt.ids)
        read = ids
        for _ in range(prompt.tokens):
            out = self.causal(
                input_ids=torch.tensor([read], device=self.device),
                use_cache=True,
                logits_to_keep=1,
                **{self._cache_name: cache},
            )
            ids = [*ids, int(out.logits[0, -1].argmax())]
            read = ids[-1:]
            progress.advance(1)
        return WrittenText(ids=ids, first=len(prompt.ids), states=self.states(ids[:-1]))

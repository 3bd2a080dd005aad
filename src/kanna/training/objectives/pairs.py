"""What objectives of preference pairs share: their data, and likelihoods of both answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanna.training import preferences
from kanna.training.examples import Example, Examples
from kanna.training.objectives.base import HeldOutFigures
from kanna.training.preferences import PreferencePair
from kanna.training.tokens import ChatTokenizer, TokenizedPair


class OfPairs:
    """Reads pairs; the chosen answers are what is wanted."""

    def read(self, data: str | Path | Sequence[str | Path]) -> Examples[PreferencePair]:
        """Pairs of preferences."""
        return preferences.read(data)

    def tokens(
        self, chats: ChatTokenizer, records: Sequence[PreferencePair]
    ) -> list[TokenizedPair]:
        """Pairs in tokens."""
        return chats.pairs(records)

    def wanted(self, records: Sequence[PreferencePair]) -> list[Example]:
        """Prompts with the chosen answers."""
        return [pair.chosen for pair in records]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairLikelihoods:
    """Log-likelihoods of pairs; tensors of float64, one value for each pair.

    Attributes:
        chosen: Of the chosen answers, nats.
        rejected: Of the rejected ones.
        chosen_tokens: Tokens of the chosen answers.
        rejected_tokens: Of the rejected ones.
        whole: Nats per token of prompt and chosen answer, as the mean over all pairs.
    """

    chosen: Any
    rejected: Any
    chosen_tokens: Any
    rejected_tokens: Any
    whole: float

    @property
    def per_token(self) -> tuple[Any, Any]:
        """Nats per token of both answers."""
        return self.chosen / self.chosen_tokens, self.rejected / self.rejected_tokens

    def figures(self, loss: float) -> HeldOutFigures:
        """The figures of a model, with the loss of its objective."""
        chosen, rejected = self.per_token
        return HeldOutFigures(
            loss=loss,
            domain_loss=float(-self.chosen.sum() / self.chosen_tokens.sum()),
            accuracy=float((chosen > rejected).double().mean()),
            margin=float((chosen - rejected).mean()),
            each=tuple(float(v) for v in rejected - chosen),
        )


def likelihoods(model: Any, pairs: Sequence[TokenizedPair]) -> PairLikelihoods:
    """Log-likelihoods of both answers of every pair, one sequence in memory at a time.

    Args:
        model: A causal language model of transformers.
        pairs: In tokens.
    """
    import torch

    device, training = next(model.parameters()).device, model.training
    model.eval()
    sums: list[list[float]] = [[], []]
    whole, count = 0.0, 0
    with torch.inference_mode():
        for pair in pairs:
            for side, answer in enumerate((pair.chosen, pair.rejected)):
                ids = torch.tensor([pair.prompt + answer], device=device)
                logits = model(input_ids=ids).logits[0, :-1].float()
                nats = -torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
                sums[side].append(float(nats[-len(answer) :].double().sum()))
                if side == 0:
                    whole, count = whole - float(nats.double().sum()), count + len(nats)
    model.train(training)
    return PairLikelihoods(
        chosen=torch.tensor(sums[0], dtype=torch.float64),
        rejected=torch.tensor(sums[1], dtype=torch.float64),
        chosen_tokens=torch.tensor([float(len(p.chosen)) for p in pairs], dtype=torch.float64),
        rejected_tokens=torch.tensor([float(len(p.rejected)) for p in pairs], dtype=torch.float64),
        whole=whole / max(1, count),
    )

"""Odds-ratio preference optimization (Hong et al. 2024, arXiv:2403.07691) by TRL's ORPOTrainer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kanna.training.objectives.base import HeldOutFigures, Judge, TrainerParts
from kanna.training.objectives.pairs import OfPairs, likelihoods
from kanna.training.settings import TrainingSettings
from kanna.training.tokens import TokenizedPair


class OddsRatio(OfPairs):
    """The chosen answer is learned, and its odds raised against the rejected one's."""

    learning_rate = 1e-4

    def trainer(self, parts: TrainerParts) -> Any:
        """ORPOTrainer, given tokens: the template is the model's own, rendered as for a runtime."""
        import datasets
        from trl.experimental.orpo import ORPOConfig, ORPOTrainer

        class ORPOOfTokens(ORPOTrainer):
            """Takes tokens as they are."""

            def tokenize_row(self, feature: Any, model: Any = None) -> Any:
                return feature

        return ORPOOfTokens(
            model=parts.model,
            args=ORPOConfig(
                **parts.arguments,
                beta=parts.settings.beta,
                remove_unused_columns=False,
                max_length=max(len(p.prompt) + len(p.chosen) for p in parts.training),
            ),
            train_dataset=datasets.Dataset.from_list([_row(one) for one in parts.training]),
            processing_class=parts.tokenizer,
            peft_config=parts.lora,
        )

    def judge(self, held_out: Sequence[TokenizedPair], settings: TrainingSettings) -> Judge:
        """ORPO's loss on held-out pairs, as the trainer computes it."""

        def judged(model: Any) -> HeldOutFigures:
            import torch

            now = likelihoods(model, held_out)
            chosen, rejected = now.per_token
            # log(p / (1 - p)) of both, p the likelihood per token.
            odds = [p - torch.log(-torch.expm1(p)) for p in (chosen, rejected)]
            raised = torch.nn.functional.logsigmoid(odds[0] - odds[1]).mean()
            return now.figures(now.whole - settings.beta * float(raised))

        return judged


def _row(pair: TokenizedPair) -> dict[str, list[int]]:
    """A pair under the names of TRL's collator."""
    row: dict[str, list[int]] = {}
    for side, answer in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        one = pair.example(answer)
        row[f"{side}_input_ids"], row[f"{side}_labels"] = one.ids, one.labels
        row[f"{side}_attention_mask"] = [1] * len(one.ids)
    return row


OBJECTIVE = OddsRatio()

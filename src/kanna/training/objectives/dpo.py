"""Direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290) by TRL's DPOTrainer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kanna.training.objectives.base import HeldOutFigures, Judge, TrainerParts
from kanna.training.objectives.pairs import OfPairs, PairLikelihoods, likelihoods
from kanna.training.settings import TrainingSettings
from kanna.training.tokens import TokenizedPair


class Direct(OfPairs):
    """The chosen answer becomes likelier than in the base model, against the rejected one."""

    learning_rate = 5e-5

    def trainer(self, parts: TrainerParts) -> Any:
        """DPOTrainer, given tokens: the template is the model's own, rendered as for a runtime."""
        import datasets
        from trl.trainer.dpo_config import DPOConfig
        from trl.trainer.dpo_trainer import DPOTrainer

        class DPOOfTokens(DPOTrainer):
            """Takes tokens as they are; TRL has no setting for that here, as SFTTrainer has."""

            def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
                return dataset

        rows = [
            {"prompt_ids": one.prompt, "chosen_ids": one.chosen, "rejected_ids": one.rejected}
            for one in parts.training
        ]
        return DPOOfTokens(
            model=parts.model,
            args=DPOConfig(**parts.arguments, max_length=None, beta=parts.settings.beta),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=parts.tokenizer,
            peft_config=parts.lora,
        )

    def judge(self, held_out: Sequence[TokenizedPair], settings: TrainingSettings) -> Judge:
        """DPO's loss on held-out pairs; the base model is the same one with its adapter off."""
        reference: list[PairLikelihoods] = []

        def judged(model: Any) -> HeldOutFigures:
            import torch

            if not reference:
                with model.disable_adapter():
                    reference.append(likelihoods(model, held_out))
            now, base = likelihoods(model, held_out), reference[0]
            gained = (now.chosen - base.chosen) - (now.rejected - base.rejected)
            loss = -torch.nn.functional.logsigmoid(settings.beta * gained).mean()
            return now.figures(float(loss))

        return judged


OBJECTIVE = Direct()

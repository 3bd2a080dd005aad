"""Supervised fine-tuning: the answers of examples are learned as they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kanna.training import examples, packing
from kanna.training.answer_nats import answer_nats, by_position
from kanna.training.examples import Example, Examples
from kanna.training.objectives.base import HeldOutFigures, Judge, TrainerParts, held_out_nats
from kanna.training.settings import TrainingSettings
from kanna.training.tokens import ChatTokenizer, TokenizedExample


class Supervised:
    """Loss on answers alone, by TRL's SFTTrainer."""

    learning_rate = 5e-4

    def read(self, data: str | Path | Sequence[str | Path]) -> Examples[Example]:
        """Chats, prompts with completions, texts."""
        return examples.read(data)

    def tokens(self, chats: ChatTokenizer, records: Sequence[Example]) -> list[TokenizedExample]:
        """Examples in tokens."""
        return chats.all(records)

    def wanted(self, records: Sequence[Example]) -> list[Example]:
        """The examples themselves."""
        return list(records)

    def trainer(self, parts: TrainerParts) -> Any:
        """SFTTrainer, given tokens and labels."""
        import datasets
        from trl.trainer.sft_config import SFTConfig
        from trl.trainer.sft_trainer import SFTTrainer

        class OfAnswers(SFTTrainer):
            """Computes logits of the positions that are learned alone."""

            def compute_loss(
                self,
                model: Any,
                inputs: Any,
                return_outputs: bool = False,
                num_items_in_batch: Any = None,
            ) -> Any:
                nats = answer_nats(model, packing.read_by_models(inputs), inputs["labels"])
                count = len(nats) if num_items_in_batch is None else num_items_in_batch
                loss = nats.sum() / max(1, int(count))
                return (loss, None) if return_outputs else loss

        rows = [{"input_ids": one.ids, "labels": one.labels} for one in parts.training]
        return (OfAnswers if by_position(parts.model) else SFTTrainer)(
            model=parts.model,
            args=SFTConfig(
                **parts.arguments,
                packing=False,  # TRL's is of all data, see `packing`
                max_length=None,
                dataset_kwargs={"skip_prepare_dataset": True},
            ),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=parts.tokenizer,
            peft_config=parts.lora,
            data_collator=packing.collator(parts.row_length),
        )

    def judge(self, held_out: Sequence[TokenizedExample], settings: TrainingSettings) -> Judge:
        """The loss on held-out answers."""

        def judged(model: Any) -> HeldOutFigures:
            each = held_out_nats(model, held_out, next(model.parameters()).device)
            loss = sum(each) / max(1, sum(one.learned for one in held_out))
            return HeldOutFigures(loss=loss, domain_loss=loss, each=each)

        return judged


OBJECTIVE = Supervised()

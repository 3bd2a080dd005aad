"""Distillation: half of the loss is of the answers, half the divergence from a larger model's.

After Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network (arXiv:1503.02531), at
temperature 1, with the teacher's likeliest tokens and the rest as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kanna.training import packing
from kanna.training.objectives.base import HeldOutFigures, Judge, TrainerParts
from kanna.training.objectives.sft import Supervised
from kanna.training.settings import TrainingSettings
from kanna.training.teacher import K, TaughtExample, divergence
from kanna.training.tokens import UNLEARNED

_SHARE = 0.5
"""Of the loss that is the divergence from the teacher."""


class Distilled(Supervised):
    """Answers are learned as they are, and as the teacher would go on at each of their tokens."""

    def trainer(self, parts: TrainerParts) -> Any:
        """SFTTrainer whose loss has the teacher's part."""
        import datasets
        from trl.trainer.sft_config import SFTConfig
        from trl.trainer.sft_trainer import SFTTrainer

        class Taught(SFTTrainer):
            """Adds the divergence from the teacher."""

            def compute_loss(
                self,
                model: Any,
                inputs: Any,
                return_outputs: bool = False,
                num_items_in_batch: Any = None,
            ) -> Any:
                nats, kl = losses(model, inputs)
                count = len(nats) if num_items_in_batch is None else num_items_in_batch
                loss = ((1 - _SHARE) * nats.sum() + _SHARE * kl.sum()) / count
                return (loss, None) if return_outputs else loss

        examples: Sequence[TaughtExample] = parts.training

        def collate(records: Sequence[Any]) -> dict[str, Any]:
            return collated([examples[row["at"]] for row in records], parts.row_length)

        rows = [
            {"input_ids": one.ids, "labels": one.labels, "at": at}
            for at, one in enumerate(examples)
        ]
        return Taught(
            model=parts.model,
            args=SFTConfig(
                **parts.arguments,
                packing=False,
                max_length=None,
                remove_unused_columns=False,
                dataset_kwargs={"skip_prepare_dataset": True},
            ),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=parts.tokenizer,
            peft_config=parts.lora,
            data_collator=collate,
        )

    def judge(self, held_out: Sequence[Any], settings: TrainingSettings) -> Judge:
        """The loss on held-out answers, and the divergence from the teacher there."""

        def judged(model: Any) -> HeldOutFigures:
            import torch

            training, device = model.training, next(model.parameters()).device
            model.eval()
            sums, count, each = np.zeros(2), 0, list[float]()
            with torch.inference_mode():
                for one in held_out:
                    inputs = {
                        name: value.to(device) for name, value in collated([one], None).items()
                    }
                    both = losses(model, inputs)
                    sums += [float(v.double().sum()) for v in both]
                    count += len(both[0])
                    each.append(float(both[0].double().sum()))
            model.train(training)
            nats, kl = (float(v) for v in sums / max(1, count))
            loss = (1 - _SHARE) * nats + _SHARE * kl
            return HeldOutFigures(loss=loss, domain_loss=nats, teacher_kl=kl, each=tuple(each))

        return judged


def collated(examples: Sequence[TaughtExample], row_length: int | None) -> dict[str, Any]:
    """A batch: rows padded on the right, and what the teacher says of the learned tokens in turn.

    Args:
        examples: Of the batch.
        row_length: Tokens of a packed row at most; None: an example is a row.

    Returns:
        What `packing.arrays` gives, with attention_mask, int64 [rows, tokens], in the place of
        positions where nothing is packed; teacher_ids int64 and teacher_logp f32
        [learned tokens, K].
    """
    import torch

    filled = packing.packed(examples, row_length)
    arrays: dict[str, Any] = packing.arrays(filled)
    if row_length is None:
        sizes, width = [[len(one.ids)] for one in examples], arrays.pop("position_ids").shape[1]
        arrays["attention_mask"] = (np.arange(width) < np.array(sizes)).astype(np.int64)
    rows = [one.rows() for row in filled for one in row]
    arrays["teacher_ids"] = np.concatenate([r[0] for r in rows]).reshape(-1, K).astype(np.int64)
    arrays["teacher_logp"] = np.concatenate([r[1] for r in rows])
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def losses(model: Any, inputs: Any) -> tuple[Any, Any]:
    """Nats and divergence from the teacher of every learned token, f32 [learned tokens] each.

    Args:
        model: A causal language model of transformers.
        inputs: What `collated` gives, on the model's device.
    """
    import torch

    logits = model(**packing.read_by_models(inputs), use_cache=False).logits[:, :-1]
    labels = inputs["labels"][:, 1:]
    learned = labels != UNLEARNED
    chosen = logits[learned].float()
    nats = torch.nn.functional.cross_entropy(chosen, labels[learned], reduction="none")
    return nats, divergence(chosen, inputs["teacher_ids"], inputs["teacher_logp"])


OBJECTIVE = Distilled()

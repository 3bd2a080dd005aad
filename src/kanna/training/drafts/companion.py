"""A small model that guesses what the tuned one writes, run by transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kanna.training.drafts.written_text import TargetModel, WrittenText


@dataclass(frozen=True, slots=True, kw_only=True)
class CompanionModel:
    """A draft model.

    Attributes:
        model: A causal language model of transformers.
        target: The model that it drafts for.
    """

    model: Any
    target: TargetModel

    def guessed(self, text: WrittenText, ahead: int) -> Any:
        """Whether its guesses after each token are what was written, bool [len(ids) - 1, ahead].

        Args:
            text: What the model wrote.
            ahead: Guesses at a time.
        """
        import torch

        device = next(self.model.parameters()).device
        training = self.model.training
        self.model.eval()
        with torch.inference_mode():
            given = torch.tensor([text.ids[:-1]], device=device)
            likeliest = self.model(input_ids=given).logits[0].argmax(-1).cpu().numpy()
        self.model.train(training)
        good = likeliest == np.asarray(text.ids[1:])
        right = np.zeros((len(good), ahead), bool)
        for at in range(ahead):
            right[: len(good) - at, at] = good[at:]
        return right

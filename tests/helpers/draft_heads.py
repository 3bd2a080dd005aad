"""Heads for the token after the next, computed by torch one guess after another.

kanna computes every guess at every place at once; here the head reads its own guesses in turn, as
llama.cpp does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kanna.sources import open_source
from kanna.training.drafts.own_head import OwnHead, tensors_of
from kanna.training.drafts.written_text import TargetModel


class _Plain:
    """A model of transformers as one of PEFT that changes nothing."""

    def __init__(self, model: Any) -> None:
        self.model, self.training = model, False

    def get_base_model(self) -> Any:
        return self.model

    def eval(self) -> None:
        self.model.eval()

    def train(self, mode: bool) -> None:
        self.model.train(mode)


class TorchHead:
    """The head of a folder that `tiny_models` wrote, beside its model: one guess after another."""

    def __init__(self, folder: Path, model: Any) -> None:
        self.model, self.target = model, TargetModel(_Plain(model))
        self.head = OwnHead(self.target, tensors_of(open_source(folder)))

    def states(self, ids: Sequence[int]) -> Any:
        """What the model has of each token after its last norm, [tokens, width]."""
        import torch

        with torch.no_grad():
            return self.target.states(ids)

    def run(self, ids: Sequence[int], before: Any, first: int) -> tuple[np.ndarray, Any]:
        """Logits after each token, f32 [tokens, vocab], and the head's states, [tokens, width].

        Args:
            ids: Tokens, all that the head has read.
            before: The state before each.
            first: Position of the first.
        """
        import torch

        parts, places = self.head.modules, torch.arange(first, first + len(ids))[None]
        later = torch.full((len(ids),) * 2, float("-inf")).triu(1)[None, None]
        with torch.no_grad():
            both = [
                parts["pre_fc_norm_embedding"](self.target.embedded(torch.tensor(list(ids)))),
                parts["pre_fc_norm_hidden"](before),
            ]
            inner = parts["fc"](torch.cat(both, -1))[None]
            angles = self.target.body.rotary_emb(inner, places)
            out = parts["layers"][0](inner, position_embeddings=angles, attention_mask=later)
            out = parts["norm"](out[0] if isinstance(out, tuple) else out)[0]
            return self.target.logits(out).numpy(), out

    def guesses(self, ids: Sequence[int], states: Any, ahead: int) -> list[int]:
        """What it guesses after `ids`, each after the one before, all computed anew.

        Args:
            ids: All tokens so far.
            states: The model's state of each but the last.
            ahead: How many are guessed.
        """
        import torch

        read, guessed = list(ids), [0] * 0
        before = torch.cat([torch.zeros_like(states[:1]), states[: len(ids) - 1]])
        for _ in range(ahead):
            logits, own = self.run(read, before, 0)
            guessed.append(int(logits[-1].argmax()))
            read.append(guessed[-1])
            before = torch.cat([before, own[-1:]])
        return guessed


def mostly_right(folder: Path, model: Any) -> None:
    """Have the head of a tiny model often guess what its model writes.

    The layers of both add little to the embedding of the last token, and the head passes on that
    embedding to the same norm: it differs by what is left of its layer and by the noise of its
    matrix.
    """
    import torch
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name in tensors:
        if name.endswith(("o_proj.weight", "down_proj.weight", "out_proj.weight")):
            tensors[name] *= 0.02
    tensors["model.embed_tokens.weight"] *= 20
    width = tensors["model.norm.weight"].shape[0]
    tensors["mtp.norm.weight"] = tensors["model.norm.weight"].clone()
    tensors["mtp.pre_fc_norm_embedding.weight"] = torch.zeros(width)
    tensors["mtp.fc.weight"] *= 0.2
    tensors["mtp.fc.weight"][:, :width] += torch.eye(width)
    save_file(tensors, path, {"format": "pt"})
    model.load_state_dict({n: t for n, t in tensors.items() if "mtp." not in n}, strict=False)

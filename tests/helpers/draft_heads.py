"""Heads for the token after the next, computed by torch from a checkpoint's weights.

transformers has no class for them: what they compute is built here of the checkpoint's weights and
of transformers' own decoder layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

_PREFIX = "mtp.layers.0."


class TorchHead:
    """The head of a folder that `tiny_models` wrote, beside its model."""

    def __init__(self, folder: Path, model: Any) -> None:
        from safetensors.torch import load_file

        self.model, self.weights = model, load_file(folder / "model.safetensors")
        layer = type(model.model.layers[1])(model.config, 1).eval()
        inner = {n.removeprefix(_PREFIX): w for n, w in self.weights.items() if _PREFIX in n}
        layer.load_state_dict(inner)
        self.layer = layer

    def _norm(self, states: Any, name: str) -> Any:
        import torch

        mean = states.pow(2).mean(-1, keepdim=True)
        scale = 1 + self.weights[f"mtp.{name}.weight"]
        return states * torch.rsqrt(mean + self.model.config.rms_norm_eps) * scale

    def states(self, ids: Sequence[int]) -> Any:
        """What the model has of each token after its last norm, [tokens, width]."""
        import torch

        with torch.no_grad():
            return self.model.model(torch.tensor([ids])).last_hidden_state[0]

    def run(self, ids: Sequence[int], before: Any, first: int) -> tuple[np.ndarray, Any]:
        """Logits after each token, f32 [tokens, vocab], and the head's states, [tokens, width].

        Args:
            ids: Tokens, all that the head has read.
            before: The state before each.
            first: Position of the first.
        """
        import torch

        body, places = self.model.model, torch.arange(first, first + len(ids))[None]
        later = torch.full((len(ids),) * 2, float("-inf")).triu(1)[None, None]
        with torch.no_grad():
            both = [
                self._norm(body.embed_tokens(torch.tensor([ids])), "pre_fc_norm_embedding"),
                self._norm(before[None], "pre_fc_norm_hidden"),
            ]
            inner = torch.cat(both, -1) @ self.weights["mtp.fc.weight"].T
            angles = body.rotary_emb(inner, places)
            out = self.layer(inner, position_embeddings=angles, attention_mask=later)
            out = self._norm(out[0] if isinstance(out, tuple) else out, "norm")
            return self.model.lm_head(out)[0].numpy(), out[0]

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

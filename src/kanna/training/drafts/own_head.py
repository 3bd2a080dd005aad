"""A model's own head for further tokens (MTP, NextN), computed by torch from its weights.

transformers has no class for it: what it computes is built of the checkpoint's weights and of the
model's own decoder layer and norm, as llama.cpp computes it. Every token goes in with the state
that the model had before it; the head gives logits and a state, with which it goes on from its own
guesses.
"""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

import numpy as np

from kanna.errors import UnsupportedError, UsageError
from kanna.families import text_name
from kanna.families.blocks.next_tokens import COUNT
from kanna.model import Tensor
from kanna.sources import Source
from kanna.training.drafts.written_text import TargetModel, WrittenText

PREFIX = "mtp."
"""What the names of its tensors begin with in a checkpoint."""
_FULL = "full_attention"


def tensors_of(source: Source) -> dict[str, Tensor]:
    """The tensors of a source's head by their names in a checkpoint.

    Args:
        source: A Hugging Face folder.

    Raises:
        UsageError: It has no such head, or more than one.
    """
    named = {text_name(name): tensor for name, tensor in source.tensors.items()}
    head = {name: tensor for name, tensor in named.items() if name.startswith(PREFIX)}
    part = source.config.get("text_config")
    config = part if isinstance(part, dict) else source.config
    count = config.get(COUNT, source.config.get(COUNT, 1 if head else 0))
    if not head or count != 1:
        raise UsageError(
            f"{source.given} has {'no head' if not head else f'{count} heads'} of its own for "
            f"further tokens ({PREFIX}* tensors, {COUNT})",
            expected="one, as of Qwen3.5",
            todo="--draft MODEL takes a small model of the same vocabulary",
        )
    return head


class OwnHead:
    """The head of a model.

    Args:
        target: Its model.
        tensors: See `tensors_of`.

    Attributes:
        modules: Its layers and norms, named as in a checkpoint but for PREFIX, in float32.

    Raises:
        UnsupportedError: It is built otherwise than the model's own layers.
    """

    def __init__(self, target: TargetModel, tensors: dict[str, Tensor]) -> None:
        import torch

        self.target = target
        config = target.causal.config.get_text_config()
        kinds = list(getattr(config, "layer_types", None) or [_FULL])
        self._place = kinds.index(_FULL) if _FULL in kinds else 0
        layer = type(target.body.layers[self._place])(config, self._place)
        norm, width = type(target.body.norm), int(config.hidden_size)
        parts = {
            "fc": torch.nn.Linear(2 * width, width, bias=False),
            "layers": torch.nn.ModuleList([layer]),
            **{
                name: norm(width, eps=config.rms_norm_eps)
                for name in ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden")
            },
        }
        self.modules: Any = torch.nn.ModuleDict(parts).float()
        self._load(tensors)
        self.modules.to(target.device).eval()
        names = signature(layer.forward).parameters
        self._cache_name = "cache" if "cache" in names else "past_key_values"

    def _load(self, tensors: dict[str, Tensor]) -> None:
        import torch

        wanted = {f"{PREFIX}{name}": value for name, value in self.modules.state_dict().items()}
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if shapes != {name: tuple(value.shape) for name, value in wanted.items()}:
            odd = sorted(
                {n for n, v in wanted.items() if shapes.get(n) != tuple(v.shape)}
                | (shapes.keys() - wanted.keys())
            )
            raise UnsupportedError(
                f"the head for further tokens is built otherwise than the model's own layers: "
                f"{', '.join(odd[:3])}",
                expected="a fully connected layer, three norms and one layer of attention",
                todo="kanna bench FILE.gguf --draft mtp counts its guesses in llama.cpp",
            )
        values = {
            name.removeprefix(PREFIX): torch.from_numpy(_values(tensor).reshape(tensor.shape))
            for name, tensor in tensors.items()
        }
        self.modules.load_state_dict(values)

    def state(self) -> dict[str, Any]:
        """Its values as they are now, a copy, by their names in a checkpoint."""
        values = self.modules.state_dict()
        return {f"{PREFIX}{n}": v.detach().cpu().clone() for n, v in values.items()}

    def put(self, state: dict[str, Any]) -> None:
        """Take values over that `state` gave."""
        self.modules.load_state_dict({n.removeprefix(PREFIX): v for n, v in state.items()})

    def passes(self, ids: Sequence[int], states: Any, depth: int) -> list[Any]:
        """What it makes of tokens at every place at once, guess after guess.

        In pass s a token goes in as the (s - 1)th guess after what was read, with the state that
        the head had of the guess before it, and sees what it would see then: what was read, with
        the model's states, and the guesses since. A guess that was wrong ends a draft, so that
        guesses are the tokens themselves.

        Args:
            ids: Tokens.
            states: The model's state of each but the last, f32 [tokens - 1, width].
            depth: How many passes.

        Returns:
            Of each pass the head's states after its norm, f32 [tokens, width]; the first s - 1
            of pass s mean nothing.
        """
        import torch
        import transformers

        parts, body, device = self.modules, self.target.body, self.target.device
        count = len(ids)
        given = self.target.embedded(torch.tensor(list(ids), device=device)).float()
        given = parts["pre_fc_norm_embedding"](given)
        places = torch.arange(count, device=device)[None]
        cache = {self._cache_name: transformers.DynamicCache()}
        before, made = states, list[Any]()
        for at in range(depth):
            before = torch.cat([torch.zeros_like(before[:1]), before[: count - 1]])
            both = torch.cat([given, parts["pre_fc_norm_hidden"](before)], -1)
            inner = parts["fc"](both)[None]
            out = parts["layers"][0](
                inner,
                position_embeddings=body.rotary_emb(inner, places),
                attention_mask=_seen(count, at, device),
                **cache,
            )
            before = parts["norm"](out[0] if isinstance(out, tuple) else out)[0]
            made.append(before)
        return made

    def guessed(self, text: WrittenText, ahead: int) -> Any:
        """Whether its guesses after each token are what was written, bool [len(ids) - 1, ahead].

        Args:
            text: What the model wrote.
            ahead: Guesses at a time.
        """
        ids = text.ids
        right = np.zeros((len(ids) - 1, ahead), bool)
        for at, states in enumerate(self.passes(ids[:-1], text.states, ahead)):
            # Pass `at` reads the token at i as a guess after the one at i - at.
            likeliest = self.target.logits(states[at:]).argmax(-1).cpu().numpy()
            right[: len(likeliest), at] = likeliest == np.asarray(ids[at + 1 :])
        return right


def _values(tensor: Tensor) -> Any:
    return np.array(tensor.rows(0, tensor.shape[0] if len(tensor.shape) > 1 else 1), np.float32)


def _seen(count: int, at: int, device: Any) -> Any:
    """Mask of pass `at`: 0 where a token sees another, else -inf, f32 [1, 1, tokens, keys].

    Keys are those of all passes so far, one after another.
    """
    import torch

    row, key = torch.arange(count, device=device)[:, None], torch.arange(count, device=device)
    parts = [key <= row - at, *(key == row - (at - earlier) for earlier in range(1, at + 1))]
    seen = torch.cat(parts, -1)
    return torch.zeros(seen.shape, device=device).masked_fill(~seen, -torch.inf)[None, None]

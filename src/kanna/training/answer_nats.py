"""Nats of the tokens that are learned: on a CPU, logits are computed of these positions alone.

There, TRL's own loss multiplies every position by the head, 32,768 tokens of the vocabulary at a
time, and holds each product several times over. Here a few positions are multiplied by all of it,
and their gradient taken at once, from the same logits: for a token with nats n it is the softmax,
less one at the token itself, times the head; what arrives from n on is a factor of it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from kanna.training.tokens import UNLEARNED

_LOGITS = 1 << 24
"""Logits that are in memory at once: 64 MiB in float32."""
_HEAD = 1 << 22
"""Values of a head in 16 bits that are float32 at once: 16 MiB."""
_FACTORS = ("logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
"""What configurations of transformers call a factor of logits."""


def by_position(model: Any) -> bool:
    """Whether logits of single positions can be computed from the head's own values.

    Args:
        model: A causal language model of transformers, or PEFT's.
    """
    inner = _plain(model)
    config, head = inner.config.get_text_config(), inner.get_output_embeddings()
    factors = (getattr(config, name, None) for name in _FACTORS)
    return (
        inner.device.type == "cpu"
        and isinstance(getattr(head, "out_features", None), int)
        and not hasattr(head, "base_layer")  # which has a change of its own
        and all(factor in (None, 1) for factor in factors)
    )


def answer_nats(model: Any, given: dict[str, Any], labels: Any) -> Any:
    """Nats of each learned token, f32 [learned].

    Args:
        model: A causal language model of transformers, or PEFT's.
        given: What it reads: input_ids, attention_mask, …
        labels: int64 [examples, tokens], as the tokens, UNLEARNED where nothing is learned.
    """
    import torch

    following = labels[:, 1:]
    learned = following != UNLEARNED
    inner = _plain(model)
    if not by_position(model):
        logits = model(**given, use_cache=False).logits[:, :-1][learned].float()
        return torch.nn.functional.cross_entropy(logits, following[learned], reduction="none")
    states = inner.base_model(**given, use_cache=False).last_hidden_state[:, :-1][learned]
    cap = getattr(inner.config.get_text_config(), "final_logit_softcapping", None)
    return _function().apply(states, following[learned], inner.get_output_embeddings(), cap)


def _plain(model: Any) -> Any:
    """The model of transformers in one of PEFT."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@cache
def _function() -> Any:
    """The loss of states as a function of torch, which is there when this is called."""
    import torch

    class HeadNats(torch.autograd.Function):
        """Nats of tokens after hidden states, with the gradient taken on the way forward."""

        @staticmethod
        def forward(ctx: Any, states: Any, targets: Any, head: Any, cap: float | None) -> Any:
            nats = states.new_empty(len(states), dtype=torch.float32)
            slope = torch.empty_like(states) if ctx.needs_input_grad[0] else None
            step = max(1, _LOGITS // head.out_features)
            for start in range(0, len(states), step):
                part = slice(start, start + step)
                given = states[part].float()
                logits, bent = _logits(given, head, cap)
                rows = torch.arange(len(given))
                logits -= logits.amax(-1, keepdim=True)
                chosen = logits[rows, targets[part]]
                total = logits.exp_().sum(-1)
                nats[part] = total.log() - chosen
                if slope is None:
                    continue
                logits /= total[:, None]
                logits[rows, targets[part]] -= 1
                if bent is not None:
                    logits *= bent
                slope[part] = _times_head(logits, head, given)
            ctx.slope = slope
            return nats

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            [gradient] = gradients
            return ctx.slope * gradient[:, None].to(ctx.slope.dtype), None, None, None

    return HeadNats


def _logits(states: Any, head: Any, cap: float | None) -> tuple[Any, Any]:
    """Logits, f32 [positions, vocabulary], and the slope of a soft cap, or None without one."""
    import torch

    logits = states.new_empty((len(states), head.out_features))
    for start, stop, values in _pieces(head):
        torch.mm(states, values.T, out=logits[:, start:stop])
    if head.bias is not None:
        logits += head.bias
    if not cap:
        return logits, None
    logits.div_(cap).tanh_()
    bent = 1 - logits.square()
    return logits.mul_(cap), bent


def _times_head(gradient: Any, head: Any, like: Any) -> Any:
    """A gradient of logits as one of the states, f32 [positions, hidden]."""
    total = like.new_zeros(like.shape)
    for start, stop, values in _pieces(head):
        total.addmm_(gradient[:, start:stop], values)
    return total


def _pieces(head: Any) -> Any:
    """Rows of a head as float32: all of them as they are, or some at a time in the same place."""
    import torch

    weight = head.weight.detach()
    if weight.dtype == torch.float32:
        yield 0, len(weight), weight
        return
    step = max(1, _HEAD // weight.shape[1])
    room = torch.empty((min(step, len(weight)), weight.shape[1]))
    for start in range(0, len(weight), step):
        rows = weight[start : start + step]
        yield start, start + len(rows), room[: len(rows)].copy_(rows)

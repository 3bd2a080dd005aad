"""Whether a model keeps examples apart that stand in one row, which is computed, not looked up.

transformers makes the mask of attention from positions that begin anew, where there is no other
mask and no cache. States that run through a row (Mamba, linear attention, short convolutions) and
models that number tokens themselves do not see that: their examples are padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kanna.training import packing
from kanna.training.tokens import TokenizedExample

_TOKENS = 24
"""Of each of the two examples that are tried."""
_FLOAT32, _FLOAT16 = 1e-4, 5e-2
"""Share of logits that rounding explains, by the width of floats."""


def refusal(model: Any, examples: Sequence[TokenizedExample]) -> str:
    """Why examples cannot share a row, as a clause; "" where they can.

    Args:
        model: A causal language model of transformers.
        examples: Any of those that are learned; at least one.
    """
    import torch

    family = str(getattr(model.config, "model_type", type(model).__name__))
    pair = [
        TokenizedExample(ids=one.ids[:_TOKENS], labels=one.labels[:_TOKENS])
        for one in (examples[0], examples[-1])
    ]
    try:
        apart = torch.cat([_logits(model, [one]) for one in pair])
        difference = _logits(model, pair) - apart
    except (TypeError, ValueError, RuntimeError) as error:
        return f"{family} refuses a row of several: {str(error).splitlines()[0][:120]}"
    size = (apart - apart.mean(-1, keepdim=True)).norm(dim=-1).clamp_min(1e-30)
    share = float((difference.norm(dim=-1) / size).max())
    wide = next(model.parameters()).dtype == torch.float32
    if share <= (_FLOAT32 if wide else _FLOAT16):
        return ""
    return (
        f"in one row, an example of {family} would change what is computed of the next one (its "
        f"logits by {share:.1%})"
    )


def _logits(model: Any, row: Sequence[TokenizedExample]) -> Any:
    """Logits of a row, f32 [tokens, vocabulary]."""
    import torch

    device = next(model.parameters()).device
    batch = packing.read_by_models(packing.arrays([row]))
    given = {name: torch.from_numpy(array).to(device) for name, array in batch.items()}
    training = model.training
    model.eval()
    with torch.inference_mode():
        logits = model(**given, use_cache=False).logits[0].float()
    model.train(training)
    return logits

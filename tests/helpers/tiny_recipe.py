"""How each tiny model is made: its classes in transformers, its config, its tokenizer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SMALL = {
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}


@dataclass(frozen=True)
class Recipe:
    """How to make one tiny model.

    Its classes in transformers, config differences, tokenizer, window.
    """

    family: str
    model: str
    config: str
    values: dict[str, Any] = field(default_factory=dict)
    tokenizer: str = "spm"
    long: int = 160
    noise: float = 1.0
    """How much more arithmetic costs than elsewhere: states add up what every token brings."""
    heads: float = 1.0
    """What norms of q and k are multiplied by: without a scale, attention is as sharp as they."""
    gelu: bool = False
    """Its activation is GELU, which ggml takes from a table."""
    next_tokens: bool = False
    """A head for the token after the next is added, which transformers has no class for."""
    routed: bool = False
    """Tokens are routed to experts."""
    deviation_of_sample: bool = False
    """llama.cpp divides by one less where sparse activations take a standard deviation.

    Equal to the model that does so.
    """
    window_lost: bool = False
    """llama.cpp attends to everything where the model has a window.

    Equal to the model without one.
    """

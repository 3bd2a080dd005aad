"""Multipliers: numbers that scale embedding, residual, attention and logits (Granite)."""

from __future__ import annotations

from typing import Any

from kanna.families._config import Config
from kanna.families._stored_rope import short
from kanna.families.base import Block, Metadata
from kanna.model import Model, f32

KEYS = {
    "attention_multiplier": "attention.scale",
    "embedding_multiplier": "embedding_scale",
    "residual_multiplier": "residual_scale",
    "logits_scaling": "logit_scale",
}
"""Key of config.json → key of the GGUF."""


def _metadata(arch: str, c: Config) -> Metadata:
    return {f"{arch}.{ours}": f32(c.number(theirs)) for theirs, ours in KEYS.items()}


def _to_config(model: Model) -> dict[str, Any]:
    values = {theirs: model.meta(f"{{arch}}.{ours}", 1.0) for theirs, ours in KEYS.items()}
    return {key: short(value) for key, value in values.items()}


MULTIPLIERS = Block(
    metadata=_metadata,
    to_config=_to_config,
    defaults=dict.fromkeys(KEYS, 1.0),
    reads=frozenset(KEYS),
)

"""What engines of folders read in config.json: heads of the cache, tokens that end an answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kanna._util.typed import IDS, LAYERS, TypedObject, whole
from kanna.formats.text_files import read_object


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheShape:
    """The heads of a key-value cache.

    Attributes:
        heads: Of all layers together, keys and values counted each.
        head_size: Numbers of one.
    """

    heads: int
    head_size: int


def cache_shape(config: TypedObject) -> CacheShape:
    """The heads of the cache of a model; FormatError where a number is none."""
    heads = config.get("num_attention_heads", whole(1), 1)
    kv_heads = config.get("num_key_value_heads", whole(), 0) or heads
    own = config.get("head_dim", whole(), 0)
    return CacheShape(
        heads=2 * config.get("num_hidden_layers", LAYERS, 0) * kv_heads,
        head_size=own or config.get("hidden_size", whole(), 0) // heads,
    )


def end_ids(folder: Path) -> list[int]:
    """Tokens that end an answer, from the configurations of the model and of generation."""
    end: set[int] = set()
    for name in ("config.json", "generation_config.json"):
        ids = read_object(folder / name).get("eos_token_id", IDS, list[int]())
        end |= set(ids if isinstance(ids, list) else [ids])
    return sorted(end)

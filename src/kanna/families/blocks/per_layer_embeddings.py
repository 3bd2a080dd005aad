"""Per-layer embeddings (Gemma 3n, Gemma 4): a second table with a vector per token and layer.

llama.cpp reads its rows from the file as they are asked for; it takes more bytes than memory.
"""

from __future__ import annotations

from typing import Any

from kanna._util.typed import whole
from kanna.families._config import Config
from kanna.families.base import Block, Metadata
from kanna.model import Model, u32

WIDTH = "hidden_size_per_layer_input"
_WITHOUT = ("gemma4_unified_text", "gemma4_unified")


def _width(c: Config) -> int:
    """Of the 12B of Gemma 4 no config has the key: there the second table does not exist."""
    if c.get("model_type") in _WITHOUT and c.given.get(WIDTH) is None:
        return 0
    return c.read(WIDTH, whole(), 0)


def _sizes(c: Config) -> dict[str, int]:
    return {
        "per_layer": _width(c),
        "per_layers": _width(c) * c.layers,
        "per_layer_vocab": c.read("vocab_size_per_layer_input", whole(1), c.vocab),
    }


def _names(c: Config) -> dict[str, str]:
    """None of it in a model whose config gives the second table no width."""
    if not _width(c):
        return {}
    names = {
        "model.embed_tokens_per_layer": "per_layer_token_embd",
        "model.per_layer_model_projection": "per_layer_model_proj",
        "model.per_layer_projection_norm": "per_layer_proj_norm",
    }
    for layer in range(c.layers):
        inside = f"model.layers.{layer}"
        names |= {
            f"{inside}.per_layer_input_gate": f"blk.{layer}.inp_gate",
            f"{inside}.per_layer_projection": f"blk.{layer}.proj",
            f"{inside}.post_per_layer_input_norm": f"blk.{layer}.post_norm",
        }
    return names


def _metadata(arch: str, c: Config) -> Metadata:
    return {f"{arch}.embedding_length_per_layer_input": u32(_width(c))}


def _to_config(model: Model) -> dict[str, Any]:
    table = model.tensors.get("per_layer_token_embd.weight")
    rows = {} if table is None else {"vocab_size_per_layer_input": table.shape[0]}
    return {WIDTH: model.whole("{arch}.embedding_length_per_layer_input", 0)} | rows


PER_LAYER_EMBEDDINGS = Block(
    more_names=_names,
    shapes={
        "per_layer_token_embd": ("per_layer_vocab", "per_layers"),
        "per_layer_model_proj": ("per_layers", "hidden"),
        "per_layer_proj_norm": ("per_layer",),
        "inp_gate": ("per_layer", "hidden"),
        "proj": ("hidden", "per_layer"),
        "post_norm": ("hidden",),
    },
    sizes=_sizes,
    metadata=_metadata,
    to_config=_to_config,
    defaults={WIDTH: 256},
    reads=frozenset({WIDTH, "vocab_size_per_layer_input"}),
)

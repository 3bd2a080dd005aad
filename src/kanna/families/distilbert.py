"""DistilBERT: BERT without token types; in GGUF it is `bert`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from kanna.families import bert
from kanna.families._config import Config
from kanna.families.base import Block
from kanna.model import F32

_LAYER = "transformer.layer.{}"
_WRAPPER = "distilbert."
_KEYS = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "hidden_dim": "intermediate_size",
    "activation": "hidden_act",
}
"""Keys of its config.json → those of BERT."""
_OWN = {"layer_norm_eps": 1e-12, "type_vocab_size": 1}
"""What transformers has in its code."""


def respell_config(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """config.json in the keys of BERT."""
    return {_KEYS.get(key, key): value for key, value in raw.items()} | _OWN


def _never(_: Config) -> bool:
    return False


def respell(name: str) -> str:
    """Without the prefix that models with a head have."""
    return name.removeprefix(_WRAPPER)


def extra(c: Config) -> dict[str, F32]:
    """One type of zeros: so the file is that of a BERT, in llama.cpp and on the way back."""
    return {"token_types.weight": np.zeros((1, c.hidden), np.float32)}


FAMILY = replace(
    bert.FAMILY,
    summary="DistilBERT: a BERT without token types",
    also=("multi-qa-distilbert", "msmarco-distilbert"),
    architectures=("DistilBertModel", "DistilBertForMaskedLM"),
    model_type="distilbert",
    model_types=(),
    names={
        "embeddings.word_embeddings": "token_embd",
        "embeddings.position_embeddings": "position_embd",
        "embeddings.token_type_embeddings": "token_types",  # computed: here is its place
        "embeddings.LayerNorm": "token_embd_norm",
        f"{_LAYER}.attention.q_lin": "blk.{}.attn_q",
        f"{_LAYER}.attention.k_lin": "blk.{}.attn_k",
        f"{_LAYER}.attention.v_lin": "blk.{}.attn_v",
        f"{_LAYER}.attention.out_lin": "blk.{}.attn_output",
        f"{_LAYER}.sa_layer_norm": "blk.{}.attn_output_norm",
        f"{_LAYER}.ffn.lin1": "blk.{}.ffn_up",
        f"{_LAYER}.ffn.lin2": "blk.{}.ffn_down",
        f"{_LAYER}.output_layer_norm": "blk.{}.layer_output_norm",
    },
    blocks=(),
    unused=Block(
        names=dict.fromkeys(
            ("embeddings", "vocab_transform", "vocab_layer_norm", "vocab_projector"), ""
        )
    ),
    extra=extra,
    defaults=bert.DEFAULTS | {"num_hidden_layers": 6} | _OWN,
    fixed={"hidden_act": bert.ACTIVATIONS},
    reads=frozenset(
        {
            "dropout",
            "layer_norm_eps",
            "qa_dropout",
            "seq_classif_dropout",
            "sinusoidal_pos_embds",  # the table is stored either way
            "type_vocab_size",
        }
        | _KEYS.keys()
    ),
    ranks=_never,
    respell=respell,
    respell_config=respell_config,
)

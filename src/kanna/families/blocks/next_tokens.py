"""Heads that predict the token after the next (MTP, NextN): layers after the last, kept as such."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from kanna._util.typed import whole
from kanna.families._config import Config
from kanna.families.base import Block, Metadata
from kanna.model import Model, u32

COUNT = "mtp_num_hidden_layers"
_HEAD = {
    "mtp.fc": "nextn.eh_proj",
    "mtp.pre_fc_norm_embedding": "nextn.enorm",
    "mtp.pre_fc_norm_hidden": "nextn.hnorm",
    "mtp.norm": "nextn.shared_head_norm",
}


def count(c: Config) -> int:
    """How many such layers config.json announces."""
    return c.read(COUNT, whole(), 0)


def next_tokens(layer: Mapping[str, str]) -> Block:
    """Heads whose layers are built as others of the model are.

    Args:
        layer: Names of one layer, `model.layers.{}.…` → `blk.{}.…`.
    """

    def names(c: Config) -> dict[str, str]:
        more: dict[str, str] = {}
        for number in range(count(c)):
            at = str(c.layers + number)
            for theirs, ours in layer.items():
                inside = re.sub(r"^model\.layers\.\{\}", f"mtp.layers.{number}", theirs)
                more[inside] = ours.replace("{}", at)
            if number == 0:
                more |= {theirs: f"blk.{at}.{ours}" for theirs, ours in _HEAD.items()}
        return more

    return Block(
        more_names=names,
        shapes={
            "nextn.eh_proj": ("hidden", "2hidden"),
            "nextn.enorm": ("hidden",),
            "nextn.hnorm": ("hidden",),
            "nextn.shared_head_norm": ("hidden",),
        },
        sizes=lambda c: {"2hidden": 2 * c.hidden},
        metadata=_metadata,
        to_config=_to_config,
        reads=frozenset({COUNT}),
    )


def _metadata(arch: str, c: Config) -> Metadata:
    if not count(c):
        return {}
    return {
        f"{arch}.nextn_predict_layers": u32(count(c)),
        f"{arch}.block_count": u32(c.layers + count(c)),
    }


def _to_config(model: Model) -> dict[str, Any]:
    announced = model.whole("{arch}.nextn_predict_layers", 0)
    layers = model.whole("{arch}.block_count", least=1) - announced
    return {"num_hidden_layers": layers} | ({COUNT: announced} if announced else {})

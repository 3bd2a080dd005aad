"""Gated delta net (Qwen3.5): a layer that keeps a state in place of keys and values.

Value heads are stored by the key head they belong to; GGUF has them in turn, so that llama.cpp can
repeat key heads as a whole (llama.cpp, pull request 19468).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanna._util.typed import whole
from kanna.families._config import Config
from kanna.families.base import Block, Metadata
from kanna.families.forms import ColumnOrder, DepthwiseConvolution, Order, RowOrder, Same
from kanna.model import Model, ValueType, array, u32

KINDS = ("linear_attention", "full_attention")
_PERIOD = 4


def is_full_attention(c: Config, layer: int) -> bool:
    """Whether a layer attends, by `layer_types` or the interval of such layers."""
    kinds = c.layer_kinds(KINDS)
    if kinds is not None:
        return kinds[layer] == "full_attention"
    return (layer + 1) % c.read("full_attention_interval", whole(1), _PERIOD) == 0


def _is_recurrent(c: Config, layer: int) -> bool:
    return not is_full_attention(c, layer)


def _widths(c: Config) -> tuple[int, int]:
    """Width of all key heads, and of all value heads."""
    keys = c.count("linear_key_head_dim") * c.count("linear_num_key_heads")
    return keys, c.count("linear_value_head_dim") * c.count("linear_num_value_heads")


def _in_turn(c: Config, width: int) -> NDArray[np.int64]:
    """Where each value of the value heads lies in Hugging Face's order, `width` values a head."""
    keys, values = c.count("linear_num_key_heads"), c.count("linear_num_value_heads")
    places = np.arange(values * width).reshape(keys, values // keys, width)
    return places.transpose(1, 0, 2).reshape(-1)


def _heads(c: Config) -> NDArray[np.int64]:
    return _in_turn(c, 1)


def _values(c: Config) -> NDArray[np.int64]:
    return _in_turn(c, c.count("linear_value_head_dim"))


def _queries_keys_values(c: Config) -> NDArray[np.int64]:
    before = 2 * _widths(c)[0]
    return np.concatenate([np.arange(before), before + _values(c)])


def _sizes(c: Config) -> dict[str, int]:
    keys, values = _widths(c)
    return {
        "mixed": 2 * keys + values,
        "values": values,
        "value_heads": c.count("linear_num_value_heads"),
        "value_head": c.count("linear_value_head_dim"),
        "kernel": c.count("linear_conv_kernel_dim"),
    }


def _metadata(arch: str, c: Config) -> Metadata:
    recurrent = [_is_recurrent(c, layer) for layer in range(c.layers)]
    recurrent += [False] * c.read("mtp_num_hidden_layers", whole(), 0)
    return {
        f"{arch}.ssm.conv_kernel": u32(c.count("linear_conv_kernel_dim")),
        f"{arch}.ssm.state_size": u32(c.count("linear_key_head_dim")),
        f"{arch}.ssm.group_count": u32(c.count("linear_num_key_heads")),
        f"{arch}.ssm.time_step_rank": u32(c.count("linear_num_value_heads")),
        f"{arch}.ssm.inner_size": u32(_widths(c)[1]),
        f"{arch}.attention.recurrent_layers": array(recurrent, ValueType.BOOL),
        f"{arch}.full_attention_interval": u32(
            c.read("full_attention_interval", whole(1), _PERIOD)
        ),
    }


def _to_config(model: Model) -> dict[str, Any]:
    layers = model.whole("{arch}.block_count") - model.whole("{arch}.nextn_predict_layers", 0)
    interval = model.whole("{arch}.full_attention_interval", _PERIOD, least=1)
    usual = [(i + 1) % interval != 0 for i in range(layers)]
    recurrent = list(model.meta("{arch}.attention.recurrent_layers", usual))[:layers]
    heads = model.whole("{arch}.ssm.time_step_rank", least=1)
    return {
        "layer_types": ["linear_attention" if r else "full_attention" for r in recurrent],
        "linear_conv_kernel_dim": model.whole("{arch}.ssm.conv_kernel", least=1),
        "linear_key_head_dim": model.whole("{arch}.ssm.state_size", least=1),
        "linear_value_head_dim": model.whole("{arch}.ssm.inner_size", least=1) // heads,
        "linear_num_key_heads": model.whole("{arch}.ssm.group_count", least=1),
        "linear_num_value_heads": heads,
    }


def _vector(order: Order) -> RowOrder:
    """The logarithm of the decay, which llama.cpp wants as the decay, below zero."""
    return RowOrder(order, there=lambda x: -np.exp(x), back=lambda x: np.log(-x))


DELTA_NET = Block(
    names={
        "model.layers.{}.linear_attn.in_proj_qkv": "blk.{}.attn_qkv",
        "model.layers.{}.linear_attn.in_proj_z": "blk.{}.attn_gate",
        "model.layers.{}.linear_attn.in_proj_a": "blk.{}.ssm_alpha",
        "model.layers.{}.linear_attn.in_proj_b": "blk.{}.ssm_beta",
        "model.layers.{}.linear_attn.conv1d": "blk.{}.ssm_conv1d",
        "model.layers.{}.linear_attn.norm": "blk.{}.ssm_norm",
        "model.layers.{}.linear_attn.out_proj": "blk.{}.ssm_out",
    },
    tensors={
        "model.layers.{}.linear_attn.A_log": "blk.{}.ssm_a",
        "model.layers.{}.linear_attn.dt_bias": "blk.{}.ssm_dt.bias",
    },
    shapes={
        "attn_qkv": ("mixed", "hidden"),
        "attn_gate": ("values", "hidden"),
        "ssm_alpha": ("value_heads", "hidden"),
        "ssm_beta": ("value_heads", "hidden"),
        "ssm_conv1d": ("mixed", "kernel"),
        "ssm_norm": ("value_head",),
        "ssm_out": ("hidden", "values"),
        "ssm_a": ("value_heads",),
        "ssm_dt": ("value_heads",),
    },
    where=_is_recurrent,
    sizes=_sizes,
    forms={
        "attn_qkv": RowOrder(_queries_keys_values),
        "attn_gate": RowOrder(_values),
        "ssm_alpha": RowOrder(_heads),
        "ssm_beta": RowOrder(_heads),
        "ssm_conv1d": DepthwiseConvolution(_queries_keys_values),
        "ssm_norm": Same(),
        "ssm_out": ColumnOrder(_values),
        "ssm_a": _vector(_heads),
        "ssm_dt": RowOrder(_heads),
    },
    metadata=_metadata,
    to_config=_to_config,
    defaults={
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 32,
    },
    reads=frozenset(
        {
            "full_attention_interval",
            "layer_types",
            "linear_conv_kernel_dim",
            "linear_key_head_dim",
            "linear_value_head_dim",
            "linear_num_key_heads",
            "linear_num_value_heads",
            "mtp_num_hidden_layers",
        }
    ),
)

"""gpt-oss (20B, 120B): experts with biases, attention with sinks, windows in every other layer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from kanna.families._config import Config
from kanna.families._keys import common
from kanna.families._stored_rope import scaling, short
from kanna.families.base import ATTENTION, ENDS, Block, Family, Metadata, Problem
from kanna.families.blocks.expert_stacks import Spelling
from kanna.families.blocks.experts import experts
from kanna.families.stacked import Stacked
from kanna.families.views import PickedColumns
from kanna.formats.views import Refolded
from kanna.model import F32, Model, Tensor, ValueType, array, u32

ARCH = "gpt-oss"
KINDS = ("sliding_attention", "full_attention")
EXPERTS = experts(
    Spelling(each={}, router="mlp.router", fused=True, transposed=True, interleaved=True),
    count="num_local_experts",
    width="intermediate_size",
)
_AT = "model.layers.{}.mlp.experts."
_BIAS = re.compile(r"(?P<layer>model\.layers\.\d+\.mlp\.experts\.)gate_up_proj_bias")
_HALF = re.compile(r"(?P<layer>model\.layers\.\d+\.mlp\.experts\.)(?P<kind>gate|up)_of_bias")


class _Biases:
    """Biases of gate and up, which alternate in a checkpoint."""

    def gather(self, tensors: Mapping[str, Tensor], _: Config) -> dict[str, Tensor]:
        """Those of gate and of up, each [experts, rows]."""
        out: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            match = _BIAS.fullmatch(name)
            if match is None or len(tensor.shape) != 2 or tensor.shape[1] % 2:
                out[name] = tensor
                continue
            for first, kind in enumerate(("gate", "up")):
                half = f"{match['layer']}{kind}_of_bias"
                out[half] = PickedColumns(half, tensor, np.arange(first, tensor.shape[1], 2))
        return out

    def spread(self, tensors: Mapping[str, Tensor], _: Config) -> dict[str, Tensor]:
        """Those of both, in turn."""
        out: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            match = _HALF.fullmatch(name)
            if match is None:
                out[name] = tensor
            elif match["kind"] == "gate":
                both = match["layer"] + "gate_up_proj_bias"
                pair = Stacked(both, [tensor, tensors[match["layer"] + "up_of_bias"]])
                shape = (tensor.shape[0], 2 * tensor.shape[1])
                out[both] = Refolded(both, pair, shape, _in_turn)
        return out

    def pieces(self, name: str, _: Config) -> list[str]:
        """The tensor that holds both."""
        match = _HALF.fullmatch(name)
        return [match["layer"] + "gate_up_proj_bias"] if match else [name]


def _in_turn(values: F32) -> F32:
    """Gates above ups [2 experts, rows] as [experts, 2 rows], a gate before each up."""
    halves = values.reshape(2, -1, values.shape[1])
    return np.ascontiguousarray(halves.transpose(1, 2, 0))


BIASES = Block(
    tensors={
        _AT + "gate_of_bias": "blk.{}.ffn_gate_exps.bias",
        _AT + "up_of_bias": "blk.{}.ffn_up_exps.bias",
        _AT + "down_proj_bias": "blk.{}.ffn_down_exps.bias",
    },
    regrouping=_Biases(),
)


def _windows(c: Config) -> list[bool]:
    kinds = c.layer_kinds(KINDS)
    return [k == KINDS[0] for k in kinds] if kinds else [i % 2 == 0 for i in range(c.layers)]


def metadata(c: Config) -> Metadata:
    """The `gpt-oss.*` keys."""
    return common(ARCH, c, head_dim=True) | {
        f"{ARCH}.attention.sliding_window": u32(c.count("sliding_window")),
        f"{ARCH}.attention.sliding_window_pattern": array(_windows(c), ValueType.BOOL),
    }


def checks(c: Config) -> list[Problem]:
    """llama.cpp rounds the ends of yarn's ramp, which this family does not."""
    rope = c.rope()
    if rope.kind != "yarn":
        return []
    if rope.params.get("truncate", True):
        return [Problem("rope scaling 'yarn' has truncate = true", "false, as gpt-oss is trained")]
    return [
        Problem(
            "llama.cpp rounds the ends of yarn's ramp, and this model was trained without "
            "(truncate = false): a few rotary frequencies differ, in every GGUF of it",
            fatal=False,
        )
    ]


def to_config(model: Model) -> dict[str, Any]:
    """Windows, and yarn as this family is published."""
    layers = model.whole("{arch}.block_count", least=1)
    usual = [i % 2 == 0 for i in range(layers)]
    windows = list(model.meta("{arch}.attention.sliding_window_pattern", usual))
    yarn = scaling(model)
    rope = {"rope_type": "default"} if yarn is None else yarn | {"truncate": False}
    return {
        "sliding_window": model.whole("{arch}.attention.sliding_window", least=1),
        "layer_types": [KINDS[0] if windowed else KINDS[1] for windowed in windows],
        "attention_bias": True,
        "rope_parameters": rope | {"rope_theta": short(model.meta("{arch}.rope.freq_base"))},
    }


FAMILY = Family(
    arch=ARCH,
    summary="gpt-oss: 20B, 120B",
    also=("gpt-oss-safeguard",),
    architectures=("GptOssForCausalLM",),
    model_type="gpt_oss",
    metadata=metadata,
    names=ENDS
    | {"model.layers.{}.input_layernorm": "blk.{}.attn_norm"}
    | ATTENTION
    | {"model.layers.{}.post_attention_layernorm": "blk.{}.post_attention_norm"},
    tensors={"model.layers.{}.self_attn.sinks": "blk.{}.attn_sinks.weight"},
    blocks=(EXPERTS, BIASES),
    biases=frozenset({"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate_inp"}),
    shapes={"attn_sinks": ("heads",)},
    sizes=lambda c: {"heads": c.heads},
    defaults={
        "vocab_size": 201088,
        "hidden_size": 2880,
        "intermediate_size": 2880,
        "num_hidden_layers": 36,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "num_local_experts": 128,
        "num_experts_per_tok": 4,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 150000.0,
        "sliding_window": 128,
        "tie_word_embeddings": False,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 150000.0,
            "factor": 32.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
            "original_max_position_embeddings": 4096,
        },
    },
    # llama.cpp has the numbers of the gates in its code.
    fixed={
        "hidden_act": ("silu", "swish"),
        "attention_bias": (True,),
        "swiglu_alpha": (1.702,),
        "swiglu_limit": (7.0, 7),
        "tie_word_embeddings": (False,),
    },
    rope_types=frozenset({"default", "yarn"}),
    rope_reads=frozenset({"truncate"}),
    reads=frozenset(
        {
            "experts_per_token",
            "initial_context_length",
            "layer_types",
            "output_router_logits",
            "sliding_window",
        }
    ),
    checks=checks,
    to_config=to_config,
)

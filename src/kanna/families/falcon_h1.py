"""Falcon-H1: attention and Mamba 2 side by side in every layer, and a dozen multipliers."""

from __future__ import annotations

from typing import Any

import numpy as np

from kanna._util.typed import FLAG, listed, number
from kanna.errors import SourceError
from kanna.families._config import Config
from kanna.families._keys import common
from kanna.families.base import ATTENTION, Family, Form, Metadata, Problem, every_layer
from kanna.families.blocks.mamba2 import CONVOLUTION_BIAS, Mamba2, mamba2
from kanna.families.forms import Multiplied
from kanna.model import F32, Model, u32

ARCH = "falcon-h1"
STATE = Mamba2()
_PARTS = 5
"""Parts of the first matrix of a state: gate, values, what is written, what is read, steps."""


def _numbers(c: Config, key: str, count: int) -> list[float]:
    given = c.read(key, listed(number()), [1.0] * count)
    if len(given) != count:
        raise SourceError(
            f"config.json has {key} = {given}",
            expected=f"{count} numbers",
            todo="fetch config.json again from where the model was published",
        )
    return given


def _projected(c: Config) -> F32:
    """What each row of a state's first matrix is multiplied by."""
    inner, shared = STATE.inner(c), c.count("mamba_n_groups") * c.count("mamba_d_state")
    sizes = [inner, inner, shared, shared, c.count("mamba_n_heads")]
    each = np.asarray(_numbers(c, "ssm_multipliers", _PARTS), np.float32)
    return np.repeat(each * np.float32(c.number("ssm_in_multiplier")), sizes)


def _of(*keys: str) -> Multiplied:
    """A matrix times the product of some numbers of the config."""
    return Multiplied(lambda c: float(np.prod([c.number(key) for key in keys])))


FORMS: dict[str, Form] = {
    "token_embd": _of("embedding_multiplier"),
    "output": _of("lm_head_multiplier"),
    "attn_q": _of("attention_in_multiplier"),
    "attn_k": _of("attention_in_multiplier", "key_multiplier"),
    "attn_v": _of("attention_in_multiplier"),
    "attn_output": _of("attention_out_multiplier"),
    "ssm_in": Multiplied(_projected),
    "ssm_out": _of("ssm_out_multiplier"),
    "ffn_gate": Multiplied(lambda c: _numbers(c, "mlp_multipliers", 2)[0]),
    "ffn_down": Multiplied(lambda c: _numbers(c, "mlp_multipliers", 2)[1]),
}
ONES = (
    "attention_in_multiplier",
    "attention_out_multiplier",
    "embedding_multiplier",
    "key_multiplier",
    "lm_head_multiplier",
    "ssm_in_multiplier",
    "ssm_out_multiplier",
)


def metadata(c: Config) -> Metadata:
    """The `falcon-h1.*` keys; multipliers are in the weights."""
    return common(ARCH, c, head_dim=True) | {f"{ARCH}.vocab_size": u32(c.vocab)}


def checks(c: Config) -> list[Problem]:
    """Norms after the gate, two matrices for two multipliers, as many channels as heads have."""
    problems: list[Problem] = []
    if c.flag("mamba_rms_norm") and c.read("mamba_norm_before_gate", FLAG, True):
        problems.append(
            Problem(
                "config.json has mamba_norm_before_gate = true",
                "false: llama.cpp normalises after the gate",
                "no stock runtime computes this model",
            )
        )
    if c.tied and c.number("embedding_multiplier") != c.number("lm_head_multiplier"):
        problems.append(
            Problem(
                "config.json has one matrix for embedding and head, and two multipliers for it",
                "tie_word_embeddings = false",
                "no stock runtime computes this model",
            )
        )
    if c.get("mamba_d_ssm") is not None and c.count("mamba_d_ssm") != STATE.inner(c):
        problems.append(
            Problem(
                f"config.json has mamba_d_ssm = {c.count('mamba_d_ssm')}",
                f"{STATE.inner(c)}, mamba_n_heads × mamba_d_head",
            )
        )
    return problems


def to_config(model: Model) -> dict[str, Any]:
    """Sizes of the state; multipliers are 1, as they are in the weights."""
    return {
        **dict.fromkeys(ONES, 1.0),
        "mlp_multipliers": [1.0, 1.0],
        "ssm_multipliers": [1.0] * _PARTS,
        "mamba_d_ssm": model.whole("{arch}.ssm.inner_size", least=1),
        "mamba_rms_norm": "blk.0.ssm_norm.weight" in model.tensors,
        "mamba_norm_before_gate": False,
        "mamba_conv_bias": True,
        "mamba_proj_bias": False,
    }


FAMILY = Family(
    arch=ARCH,
    summary="Falcon-H1: 0.5B to 34B",
    architectures=("FalconH1ForCausalLM",),
    model_type="falcon_h1",
    metadata=metadata,
    names={
        "model.embed_tokens": "token_embd",
        "model.layers.{}.input_layernorm": "blk.{}.attn_norm",
        **ATTENTION,
        "model.layers.{}.feed_forward.gate_proj": "blk.{}.ffn_gate",
        "model.layers.{}.feed_forward.up_proj": "blk.{}.ffn_up",
        "model.layers.{}.feed_forward.down_proj": "blk.{}.ffn_down",
        "model.final_layernorm": "output_norm",
        "lm_head": "output",
    },
    tensors={"model.layers.{}.pre_ff_layernorm.weight": "blk.{}.ffn_norm"},
    blocks=(mamba2("mamba", every_layer, STATE),),
    biases=CONVOLUTION_BIAS,
    optional=frozenset({"ssm_norm.weight"}),
    forms=FORMS,
    defaults={
        "vocab_size": 128000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "mamba_d_conv": 4,
        "mamba_d_ssm": 1024,
        "mamba_d_state": 256,
        "mamba_n_groups": 1,
        "mamba_n_heads": 128,
        **dict.fromkeys(ONES, 1.0),
    },
    fixed={
        "hidden_act": ("silu", "swish"),
        "attention_bias": (False,),
        "mlp_bias": (False,),
        "projectors_bias": (False,),
        "mamba_proj_bias": (False,),
        "mamba_conv_bias": (True,),
    },
    reads=frozenset(
        {
            *ONES,
            "layers_block_type",
            "mamba_chunk_size",
            "mamba_d_ssm",
            "mamba_expand",
            "mamba_norm_before_gate",
            "mamba_rms_norm",
            "mlp_multipliers",
            "num_logits_to_keep",
            "ssm_multipliers",
            "time_step_limit",
        }
    ),
    rope_types=frozenset({"default"}),
    checks=checks,
    to_config=to_config,
)

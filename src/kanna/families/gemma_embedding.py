"""EmbeddingGemma: Gemma 3 that reads both ways, and two dense layers after pooling."""

from __future__ import annotations

from typing import Any

from kanna.families import gemma3
from kanna.families._config import Config
from kanna.families._keys import common
from kanna.families.base import Family, Metadata, Problem
from kanna.families.gemma2 import GEMMA_NAMES, scale_problems
from kanna.model import Model, ValueType, array, boolean, f32, u32

ARCH = "gemma-embedding"
DENSE = {"2_Dense.linear": "dense_2", "3_Dense.linear": "dense_3"}
"""Layers after pooling, in folders of their own: wider, and back."""
_NO_LAYERS = -1
"""`scale_problems` without a number of layers at which llama.cpp scales otherwise."""
_NAMES = {hf: ours for hf, ours in GEMMA_NAMES.items() if ours != "output"}


def metadata(c: Config) -> Metadata:
    """The `gemma-embedding.*` keys; the window is the config's own, which both readers halve."""
    keys = common(ARCH, c, head_dim=True) | {
        f"{ARCH}.attention.causal": boolean(False),
        f"{ARCH}.attention.sliding_window": u32(c.count("sliding_window")),
        f"{ARCH}.rope.freq_base_swa": f32(c.rope("sliding_attention").theta),
    }
    windows = gemma3.windows(c)
    if windows != [(i + 1) % gemma3.PERIOD != 0 for i in range(c.layers)]:
        keys[f"{ARCH}.attention.sliding_window_pattern"] = array(windows, ValueType.BOOL)
    if width := c.measured("2_Dense.linear.weight"):
        keys |= {
            f"{ARCH}.dense_2_feat_in": u32(c.hidden),
            f"{ARCH}.dense_2_feat_out": u32(width),
            f"{ARCH}.dense_3_feat_in": u32(width),
            f"{ARCH}.dense_3_feat_out": u32(c.hidden),
        }
    return keys


def checks(c: Config) -> list[Problem]:
    """Attention that sees what comes after, and the scale that llama.cpp fixes."""
    problems = scale_problems(c, _NO_LAYERS)
    if c.get("use_bidirectional_attention") is not True:
        problems.append(
            Problem(
                "config.json is of a Gemma 3 without a head that reads one way alone",
                "use_bidirectional_attention = True, as EmbeddingGemma has it",
                "give the model as Gemma3ForCausalLM, whose embedding is its head",
            )
        )
    wide, back = (c.measured(f"{name}.weight") for name in DENSE)
    if bool(wide) != bool(back):
        problems.append(
            Problem(
                "the model has one dense layer after pooling",
                f"both of {' and '.join(name.partition('.')[0] for name in DENSE)}, or none",
                "fetch the folder again, with the folders inside it",
            )
        )
    return problems


def sizes(c: Config) -> dict[str, int]:
    """The width between the dense layers, as the first of them has it."""
    return {"wide": c.measured("2_Dense.linear.weight")}


def to_config(model: Model) -> dict[str, Any]:
    """Config keys of EmbeddingGemma, back from the metadata."""
    own = gemma3.to_config(model)
    own.pop("final_logit_softcapping")
    scalar = model.meta("{arch}.attention.key_length")
    return own | {"use_bidirectional_attention": True, "query_pre_attn_scalar": scalar}


FAMILY = Family(
    arch=ARCH,
    summary="EmbeddingGemma: Gemma 3 that reads both ways, and two dense layers after pooling",
    architectures=("Gemma3TextModel",),
    model_type="gemma3_text",
    metadata=metadata,
    names=_NAMES
    | {
        "model.layers.{}.self_attn.q_norm": "blk.{}.attn_q_norm",
        "model.layers.{}.self_attn.k_norm": "blk.{}.attn_k_norm",
    }
    | DENSE,
    optional=frozenset({"dense_2.weight", "dense_3.weight"}),
    shapes={"dense_2": ("wide", "hidden"), "dense_3": ("hidden", "wide")},
    sizes=sizes,
    defaults=gemma3.FAMILY.defaults,
    fixed={
        "hidden_activation": gemma3.ACTIVATIONS,
        "attention_bias": (False,),
        "attn_logit_softcapping": (),
        "final_logit_softcapping": (),
    },
    reads=gemma3.FAMILY.reads | {"use_bidirectional_attention"},
    sliding=True,
    rope_types=frozenset({"default", "linear"}),
    norm_offset=1.0,
    surplus=gemma3.FAMILY.surplus,
    checks=checks,
    to_config=to_config,
    encodes=True,
    steps=frozenset({"Dense"}),
)

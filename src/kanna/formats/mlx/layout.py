"""How mlx-lm stores families whose folders differ from those of Hugging Face.

Experts are stacks of one kind each (`switch_mlp`), convolutions have their channels first and the
axis of one last, and norms that are stored around zero have their one added. Facts from the
`sanitize` of mlx-lm's models, 0.32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kanna.formats.mlx.names import MLXNames, stacks
from kanna.formats.mlx.states import GRANITE_EXPERTS, GRANITE_STACKS, STATES
from kanna.formats.mlx.wrapped import WRAPPED


def _letters_of_windows(config: Mapping[str, Any]) -> dict[str, Any]:
    """EXAONE 4's layers by a letter each, L where there is a window, and the size of its heads."""
    kinds = config.get("layer_types") or []
    windows = "".join("L" if kind == "sliding_attention" else "G" for kind in kinds)
    size = config["hidden_size"] // config["num_attention_heads"]
    return {
        "head_dim": size,
        **config,
        "sliding_window_pattern": windows if "L" in windows else None,
    }


_QWEN35 = MLXNames(
    convolutions=("linear_attn.conv1d.weight",),
    offset=1.0,
    norms=(
        ".input_layernorm.weight",
        ".post_attention_layernorm.weight",
        "model.norm.weight",
        ".q_norm.weight",
        ".k_norm.weight",
    ),
    prefix="language_model.",
    dropped=("mtp.",),
    wrapped="qwen3_5",
)
_QWEN35_EXPERTS = replace(_QWEN35, stacks=stacks("mlp.experts"), wrapped="qwen3_5_moe")
LAYOUTS: Mapping[str, MLXNames] = {
    **STATES,
    **WRAPPED,
    "ernie4_5": MLXNames(needed={"use_bias": False}),
    "exaone4": MLXNames(
        needed={"rope_scaling": None, "sliding_window": None}, respelled=_letters_of_windows
    ),
    "gemma4_text": MLXNames(stacks=stacks("experts", own="switch_glu")),
    "gpt_oss": MLXNames(
        stacks=(
            ("mlp.experts.gate_of_gate_up_proj", "mlp.experts.gate_proj.weight"),
            ("mlp.experts.up_of_gate_up_proj", "mlp.experts.up_proj.weight"),
            ("mlp.experts.down_of_down_proj", "mlp.experts.down_proj.weight"),
            ("mlp.experts.gate_of_bias", "mlp.experts.gate_proj.bias"),
            ("mlp.experts.up_of_bias", "mlp.experts.up_proj.bias"),
            ("mlp.experts.down_proj_bias", "mlp.experts.down_proj.bias"),
        )
    ),
    "granitemoe": MLXNames(stacks=GRANITE_STACKS, needed={"attention_bias": False}),
    "granitemoeshared": MLXNames(refuses=lambda _: "mlx-lm 0.32 has no shared expert in it"),
    "lfm2": MLXNames(
        convolutions=("conv.conv.weight",),
        needed={
            "block_auto_adjust_ff_dim": True,
            "block_dim": "hidden_size",
            "block_ffn_dim_multiplier": 1.0,
            "block_multiple_of": 256,
        },
    ),
    "lfm2_moe": MLXNames(
        needed={"norm_topk_prob": True, "use_expert_bias": True},
        convolutions=("conv.conv.weight",),
        stacks=(
            *stacks("feed_forward.experts"),
            ("feed_forward.w1.weight", "feed_forward.gate_proj.weight"),
            ("feed_forward.w2.weight", "feed_forward.down_proj.weight"),
            ("feed_forward.w3.weight", "feed_forward.up_proj.weight"),
        ),
    ),
    "mixtral": MLXNames(stacks=stacks("block_sparse_moe.experts")),
    "olmoe": MLXNames(stacks=stacks("mlp.experts")),
    "qwen2_moe": MLXNames(stacks=stacks("mlp.experts")),
    "qwen3_moe": MLXNames(
        stacks=stacks("mlp.experts"), needed={"decoder_sparse_step": 1, "mlp_only_layers": []}
    ),
    "qwen3_5": _QWEN35,
    "qwen3_5_moe": _QWEN35_EXPERTS,
    "qwen3_5_moe_text": _QWEN35_EXPERTS,
    "qwen3_5_text": _QWEN35,
}
"""By `model_type` of config.json."""
PLAIN = MLXNames()
"""That of Hugging Face."""


def of(config: Mapping[str, Any]) -> MLXNames:
    """The layout of the model that a config.json describes."""
    kind = str(config.get("model_type"))
    if kind == "granitemoehybrid" and config.get("num_local_experts"):
        return GRANITE_EXPERTS
    return LAYOUTS.get(kind, PLAIN)

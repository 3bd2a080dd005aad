"""How mlx-lm stores families with states of Mamba 2: Granite 4, Falcon-H1, Nemotron-H."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from kanna.formats.mlx.names import MLXNames

_LONGEST_STEP = 1e30
"""Stands for no bound: JSON has no infinity, and mlx-lm bounds steps where no number is given."""
_WIDE = (".A_log", ".dt_bias", ".e_score_correction_bias")
"""Vectors that mlx-lm takes in float32 whatever the type of the others."""
_AT = "block_sparse_moe"
GRANITE_STACKS = (
    (f"{_AT}.input_linear.gate_of_weight", f"{_AT}.switch_mlp.gate_proj.weight"),
    (f"{_AT}.input_linear.up_of_weight", f"{_AT}.switch_mlp.up_proj.weight"),
    (f"{_AT}.output_linear.weight", f"{_AT}.switch_mlp.down_proj.weight"),
)


def _granite(config: Mapping[str, Any]) -> dict[str, Any]:
    """Granite 4's kinds of layers and steps as mlx-lm spells them, one feed-forward width."""
    attends = [kind in ("attention", "full_attention") for kind in config["layer_types"]]
    own = {
        "layer_types": ["attention" if a else "mamba" for a in attends],
        "time_step_limit": _steps(config.get("time_step_limit")),
    }
    if not config.get("num_local_experts"):
        own["intermediate_size"] = config["shared_intermediate_size"]
    return {**config, **own}


def _steps(limit: Any) -> list[float]:
    """The bounds of a step, in numbers that JSON has; transformers spells infinity as an object."""
    bounds = [0.0, _LONGEST_STEP]
    given: list[Any] = limit[:2] if isinstance(limit, list) else []
    for place, value in enumerate(given):
        if isinstance(value, int | float):
            bounds[place] = min(float(value), _LONGEST_STEP)
    return bounds


def _nemotron(config: Mapping[str, Any]) -> dict[str, Any]:
    """Nemotron-H's least step, which transformers reads under another key."""
    least = config.get("time_step_min")
    return {**config, "time_step_limit": [0.001 if least is None else least, _LONGEST_STEP]}


def _groups(groups: str, normed: str = "") -> Callable[[Mapping[str, Any]], str]:
    """Refuses states of several groups, each of which transformers normalises by itself.

    Args:
        groups: Key of config.json with how many there are.
        normed: Key that says whether they are normalised at all; "": they are.
    """

    def refuses(config: Mapping[str, Any]) -> str:
        several = config.get(groups, 1) != 1 and (not normed or config.get(normed))
        return "mlx-lm 0.32 normalises all groups of a state together" if several else ""

    return refuses


def _no_tied_head(config: Mapping[str, Any]) -> str:
    tied = config.get("tie_word_embeddings")
    return (
        "mlx-lm 0.32 gives it a head of its own, and this one shares the embedding" if tied else ""
    )


_GRANITE = MLXNames(
    convolutions=("mamba.conv1d.weight",),
    wide=_WIDE,
    needed={
        "attention_bias": False,
        "mamba_conv_bias": True,
        "mamba_proj_bias": False,
        "position_embedding_type": "nope",
        "intermediate_size": "shared_intermediate_size",
    },
    respelled=_granite,
    refuses=_groups("mamba_n_groups"),
    stacks=(
        ("shared_mlp.gate.weight", "mlp.gate_proj.weight"),
        ("shared_mlp.up.weight", "mlp.up_proj.weight"),
        ("shared_mlp.output_linear.weight", "mlp.down_proj.weight"),
    ),
)
GRANITE_EXPERTS = replace(
    _GRANITE,
    stacks=GRANITE_STACKS,
    halves={
        "shared_mlp.input_linear.weight": ("shared_mlp.gate.weight", "shared_mlp.up.weight"),
    },
)
STATES: Mapping[str, MLXNames] = {
    "falcon_h1": MLXNames(
        convolutions=("mamba.conv1d.weight",),
        wide=_WIDE,
        folded=True,
        refuses=_groups("mamba_n_groups", "mamba_rms_norm"),
    ),
    "granitemoehybrid": _GRANITE,
    "nemotron_h": MLXNames(
        body="backbone",
        convolutions=("mixer.conv1d.weight",),
        wide=_WIDE,
        stacks=(
            ("mixer.experts.up_proj", "mixer.switch_mlp.fc1.weight"),
            ("mixer.experts.down_proj", "mixer.switch_mlp.fc2.weight"),
        ),
        needed={
            "attention_bias": False,
            "intermediate_size": "moe_intermediate_size",
            "mamba_proj_bias": False,
            "mlp_bias": False,
            "n_group": 1,
            "topk_group": 1,
            "use_bias": False,
            "use_conv_bias": True,
        },
        respelled=_nemotron,
        refuses=_no_tied_head,
    ),
}
"""By `model_type` of config.json."""

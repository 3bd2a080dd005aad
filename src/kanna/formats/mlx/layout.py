"""How mlx-lm stores families whose folders differ from those of Hugging Face.

Experts are stacks of one kind each (`switch_mlp`), convolutions have their channels first and the
axis of one last, and norms that are stored around zero have their one added. Facts from the
`sanitize` of mlx-lm's models, 0.32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kanna.formats.views import Refolded, Shifted
from kanna.model import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class MLXNames:
    """What differs in one family.

    Attributes:
        stacks: Ends of names: of a stack between the two forms, and of mlx-lm's.
        convolutions: Ends of the names of convolutions over time.
        offset: What is added to norms.
        norms: Ends of the names of norms that have it.
        prefix: Before every name.
        dropped: Starts of names that mlx-lm does not read.
        wrapped: `model_type` of the config that has the model's as its text part; "" where mlx-lm
            takes the model's own.
        needed: Keys of config.json that mlx-lm wants and models may leave out, with the key that
            has their value, or the value.
    """

    stacks: Sequence[tuple[str, str]] = ()
    convolutions: tuple[str, ...] = ()
    offset: float = 0.0
    norms: tuple[str, ...] = ()
    prefix: str = ""
    dropped: tuple[str, ...] = ()
    wrapped: str = ""
    needed: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """config.json as mlx-lm reads it."""
        filled = {
            key: config.get(value) if isinstance(value, str) else value
            for key, value in self.needed.items()
        }
        config = {**filled, **config}
        if not self.wrapped:
            return dict(config)
        outer = {k: config[k] for k in ("architectures", "tie_word_embeddings") if k in config}
        return {**outer, "model_type": self.wrapped, "text_config": dict(config)}

    def name(self, name: str) -> str | None:
        """mlx-lm's name of a tensor; None where it does not read it."""
        if name.startswith(self.dropped or ("\0",)):
            return None
        for theirs, own in self.stacks:
            if name.endswith("." + theirs):
                name = name.removesuffix(theirs) + own
                break
        return self.prefix + name

    def values(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor of Hugging Face's as mlx-lm stores it, under Hugging Face's name."""
        if name.endswith(self.convolutions or ("\0",)) and len(tensor.shape) == 3:
            channels, _, kernel = tensor.shape
            return Refolded(name, tensor, (channels, kernel, 1))
        if self.offset and name.endswith(self.norms):
            return Shifted(name, tensor, self.offset)
        return tensor

    def back(self, name: str, tensor: Tensor) -> tuple[str, Tensor]:
        """A tensor of a folder under the name, and with the values, that Hugging Face has."""
        name = name.removeprefix(self.prefix)
        for theirs, own in self.stacks:
            if name.endswith("." + own):
                name = name.removesuffix(own) + theirs
                break
        if name.endswith(self.convolutions or ("\0",)) and len(tensor.shape) == 3:
            channels, kernel, _ = tensor.shape
            return name, Refolded(name, tensor, (channels, 1, kernel))
        if self.offset and name.endswith(self.norms):
            return name, Shifted(name, tensor, -self.offset)
        return name, tensor


def _stacks(
    module: str, fused: str = "gate_up_proj", *, down: str = "down_proj", own: str = "switch_mlp"
) -> tuple[tuple[str, str], ...]:
    """Stacks of one spelling.

    Args:
        module: Where Hugging Face has the experts.
        fused: Its tensor of all gates and ups.
        down: Its tensor of all downs.
        own: What mlx-lm calls the module of the stacks.
    """
    before, dot, last = f"{module}.{fused}".rpartition(".")
    parent = module.rpartition(".")[0] if own.startswith("switch_mlp") else module
    at = f"{parent}.{own}"
    return (
        (f"{before}{dot}gate_of_{last}", f"{at}.gate_proj.weight"),
        (f"{before}{dot}up_of_{last}", f"{at}.up_proj.weight"),
        (f"{module}.{down}", f"{at}.down_proj.weight"),
    )


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
_QWEN35_EXPERTS = replace(_QWEN35, stacks=_stacks("mlp.experts"), wrapped="qwen3_5_moe")
LAYOUTS: Mapping[str, MLXNames] = {
    "gemma4_text": MLXNames(stacks=_stacks("experts", own="switch_glu")),
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
        convolutions=("conv.conv.weight",),
        stacks=(
            *_stacks("feed_forward.experts"),
            ("feed_forward.w1.weight", "feed_forward.gate_proj.weight"),
            ("feed_forward.w2.weight", "feed_forward.down_proj.weight"),
            ("feed_forward.w3.weight", "feed_forward.up_proj.weight"),
        ),
    ),
    "mixtral": MLXNames(stacks=_stacks("block_sparse_moe.experts")),
    "olmoe": MLXNames(stacks=_stacks("mlp.experts")),
    "qwen2_moe": MLXNames(stacks=_stacks("mlp.experts")),
    "qwen3_moe": MLXNames(stacks=_stacks("mlp.experts")),
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
    return LAYOUTS.get(str(config.get("model_type")), PLAIN)

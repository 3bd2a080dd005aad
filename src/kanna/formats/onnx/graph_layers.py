"""Layers that the model builder has no class for, as classes on its own.

Each is held by a tiny model in tests/formats/onnx, whose logits are those of transformers.
"""

from __future__ import annotations

import copy
from typing import Any

from kanna.formats.onnx.angles import of_config
from kanna.formats.onnx.graph_experts import routed

FULL, SLIDING = "full_attention", "sliding_attention"
CARRIER = "LlamaForCausalLM"
"""The class of the builder in whose place these are put."""


def replace(builder: Any, config: Any) -> bool:
    """Have `builder` make the layers of the model that `config` describes, where they are here.

    Args:
        builder: The module of onnxruntime-genai.
        config: The config of the model, which is changed.
    """
    make = CLASSES.get(config.architectures[0])
    if make is None:
        return False
    made = make(builder, config)
    if config.architectures[0] == PHI:
        builder.PhiModel = made
    else:
        config.architectures = [CARRIER]
        builder.LlamaModel = made
    return True


def _own_tables(base: Any, config: Any) -> Any:
    """A class whose angles are those of transformers, a table for each kind of layer.

    Layers may also have no angles at all.
    """
    rope = dict(config.rope_parameters)
    angles = copy.copy(config)
    unturned = [i for i, turned in enumerate(_turned(config)) if not turned]
    config.rope_parameters = {"rope_type": "default"}
    config.rope_theta = (rope.get(FULL) or rope)["rope_theta"]
    if (share := rope.get("partial_rotary_factor", 1.0)) != 1.0:
        config.partial_rotary_factor = share

    class OwnTables(base):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            self.made: set[str] = set()
            self.kind = FULL

        def make_rotary_embedding_caches(self, **_: Any) -> Any:
            self.kind = FULL if self.window_size == -1 else SLIDING
            self.rope_attrs["create_caches"] = self.kind not in self.made
            self.made.add(self.kind)
            return super().make_rotary_embedding_caches(
                cos_cache_name=f"cos_cache_{self.kind}", sin_cache_name=f"sin_cache_{self.kind}"
            )

        def make_rotary_embedding_caches_from_scratch(self) -> Any:
            angles.rope_parameters = rope.get(self.kind, rope)
            return of_config(angles, self.rope_attrs["cache_length"])

        def make_attention(self, layer_id: int, *given: Any, **more: Any) -> None:
            had = {name: self.attention_attrs[name] for name in ("rope", "use_rope_in_attn")}
            if layer_id in unturned:
                self.attention_attrs.update(dict.fromkeys(had, False))
            super().make_attention(layer_id, *given, **more)
            self.attention_attrs.update(had)

    return OwnTables


def _turned(config: Any) -> list[bool]:
    """Whether each layer has a rotary embedding."""
    if (layers := getattr(config, "no_rope_layers", None)) is not None:  # one where there is one
        return [bool(turned) for turned in layers]
    if config.model_type == "exaone4" and config.sliding_window:
        return [kind == SLIDING for kind in config.layer_types]
    return [True] * config.num_hidden_layers


def _norm_over_all(graph: Any, layer_id: int, attention: Any) -> None:
    """Normalise all of q and all of k, each as one vector."""
    for part, width in (("q", graph.q_size), ("k", graph.kv_size)):
        at = f"/model/layers.{layer_id}/attn/{part}_norm/SimplifiedLayerNormalization"
        weight = f"model.layers.{layer_id}.attn.{part}_norm.layernorm.weight"
        graph.make_initializer(getattr(attention, f"{part}_norm").weight, weight, to=graph.io_dtype)
        graph.make_node(
            "SimplifiedLayerNormalization",
            inputs=[graph.attention_attrs[f"{part}_path"], weight],
            outputs=[f"{at}/output_0"],
            name=at,
            epsilon=graph.layernorm_attrs["epsilon"],
            axis=-1,
            stash_type=1,
        )
        graph.make_value(
            f"{at}/output_0",
            graph.io_dtype,
            shape=["batch_size", "sequence_length", width],
        )
        graph.attention_attrs[f"{part}_path"] = f"{at}/output_0"


def _norms_after(builder: Any, config: Any) -> Any:
    """Layers whose norms follow attention and feed-forward part (OLMo 2 and 3, EXAONE 4)."""
    over_all = config.model_type in ("olmo2", "olmo3")

    class NormsAfter(_own_tables(builder.LlamaModel, config)):
        def make_attention_init(self, given: Any) -> None:
            self.attention_attrs["q_norm"] = self.attention_attrs["k_norm"] = True
            super().make_attention_init(given)

        def make_qk_norm(self, layer_id: int, attention: Any) -> None:
            if not over_all:
                super().make_qk_norm(layer_id, attention)
                return
            _norm_over_all(self, layer_id, attention)

        def make_layer(self, layer_id: int, layer: Any) -> None:
            attrs = self.layernorm_attrs
            if not attrs["first_layernorm"]:
                self.add_parts(f"/model/layers.{layer_id}/input/Add")
            stream = attrs["root_input"]
            self.make_attention(layer_id, layer.self_attn, root_input=stream)
            self.normed(layer_id, layer.post_attention_layernorm, "post_attention")
            self.add_parts(f"/model/layers.{layer_id}/post_attention/Add")
            self.make_mlp(layer_id, layer.mlp, root_input=attrs["root_input"])
            self.normed(layer_id, layer.post_feedforward_layernorm, "post_feedforward")
            attrs["first_layernorm"] = False
            # The norm after the last layer adds what is left itself.
            attrs["last_layernorm"] = layer_id == self.num_layers - 1

        def normed(self, layer_id: int, norm: Any, location: str) -> None:
            """What a part gave, normalised, as the part to add."""
            attrs = self.layernorm_attrs
            stream, attrs["root_input"] = attrs["root_input"], attrs["skip_input"]
            self.make_layernorm(layer_id, norm, False, attrs["simple"], location)
            attrs["root_input"], attrs["skip_input"] = stream, attrs["output_0"]

        def add_parts(self, name: str) -> None:
            """The stream with the last part added to it."""
            attrs = self.layernorm_attrs
            self.make_add(
                name,
                [attrs["root_input"], attrs["skip_input"]],
                dtype=self.io_dtype,
                shape=self.make_hidden_state_shape(),
            )
            attrs["root_input"] = f"{name}/output_0"

    return NormsAfter


def _smollm3(builder: Any, config: Any) -> Any:
    """A llama, some of whose layers have no rotary embedding."""
    return _own_tables(builder.LlamaModel, config)


def _stablelm(builder: Any, config: Any) -> Any:
    """A llama with full norms, whose parts may stand side by side."""
    config.rms_norm_eps = config.layer_norm_eps
    base = builder.PhiModel if config.use_parallel_residual else builder.LlamaModel

    class StableLM(_own_tables(base, config)):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            self.layernorm_attrs["simple"] = False
            self.mlp_attrs["use_proj"], self.mlp_attrs["use_fc"] = True, False

    return StableLM


def _phi(builder: Any, config: Any) -> Any:
    """Phi-1, 1.5 and 2: a share of each head is turned, which the builder leaves out."""
    config.rms_norm_eps = config.layer_norm_eps
    return _own_tables(builder.PhiModel, config)


def _qwen_experts(builder: Any, config: Any) -> Any:
    """Qwen2 and Qwen3 with experts, of which the latter has norms on heads of q and k."""
    base = builder.Qwen3Model if config.model_type == "qwen3_moe" else builder.QwenModel
    return routed(_own_tables(base, config), config, renormalised=config.norm_topk_prob)


def _mixtral(builder: Any, config: Any) -> Any:
    """A llama whose feed-forward parts are experts."""
    return routed(_own_tables(builder.LlamaModel, config), config, renormalised=True)


def _olmoe(builder: Any, config: Any) -> Any:
    """A llama with norms over all of q and of k, whose feed-forward parts are experts."""

    class NormedOverAll(_own_tables(builder.LlamaModel, config)):
        def make_attention_init(self, given: Any) -> None:
            self.attention_attrs["q_norm"] = self.attention_attrs["k_norm"] = True
            super().make_attention_init(given)

        def make_qk_norm(self, layer_id: int, attention: Any) -> None:
            _norm_over_all(self, layer_id, attention)

    return routed(NormedOverAll, config, renormalised=config.norm_topk_prob)


def _granite_experts(builder: Any, config: Any) -> Any:
    """A Granite whose feed-forward parts are experts, with one that sees every token or without."""
    base = _own_tables(builder.GraniteModel, config)
    return routed(base, config, renormalised=True, module="block_sparse_moe")


def _gpt_oss(builder: Any, config: Any) -> Any:
    """The builder's own class, with windows where the config has them."""
    windowed = [kind == SLIDING for kind in config.layer_types]

    class GPTOSS(_own_tables(builder.GPTOSSModel, config)):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            self.is_local = windowed.__getitem__
            self.moe_attrs["activation_alpha"] = config.swiglu_alpha

    return GPTOSS


PHI = "PhiForCausalLM"
CLASSES = {
    "Exaone4ForCausalLM": _norms_after,
    "GptOssForCausalLM": _gpt_oss,
    "GraniteMoeForCausalLM": _granite_experts,
    "GraniteMoeSharedForCausalLM": _granite_experts,
    "MixtralForCausalLM": _mixtral,
    "Olmo2ForCausalLM": _norms_after,
    "Olmo3ForCausalLM": _norms_after,
    "OlmoeForCausalLM": _olmoe,
    "Qwen2MoeForCausalLM": _qwen_experts,
    "Qwen3MoeForCausalLM": _qwen_experts,
    "SmolLM3ForCausalLM": _smollm3,
    "StableLmForCausalLM": _stablelm,
    PHI: _phi,
}
"""What makes the class, by the class in transformers."""

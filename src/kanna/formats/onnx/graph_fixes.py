"""Corrections of the model builder where it computes something else than the model does.

The builder is driven as a library and stays as it is: its classes are overridden for one run. Every
line here is held by a tiny model in tests/formats/onnx, whose logits differ without it.
"""

from __future__ import annotations

import copy
from typing import Any

from kanna.formats.onnx import angles, graph_layers

SCALED = ("linear", "yarn", "llama3")
"""Scalings of rope whose angles come from transformers: the builder omits or rounds them."""


def mend(builder: Any, config: Any) -> None:
    """Change the classes of the module `builder` and the `config` for the model it describes."""
    name_windows(config)
    if graph_layers.replace(builder, config):
        return
    scale = float(config.hidden_size) ** 0.5

    class Gemma2(builder.Gemma2Model):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            self.embed_attrs["scale"] = scale  # it rounds to two decimals

    class Gemma3(builder.Gemma3Model):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            self.embed_attrs["scale"] = scale

        def make_rotary_embedding_caches_from_scratch(self) -> Any:
            # From the 4B model on, the angles of layers without a window are scaled, and of no
            # others: made second.
            if hasattr(self, "cos_cache_local_name"):
                self.rope_attrs["rescale_factors"] = 1
            return super().make_rotary_embedding_caches_from_scratch()

    builder.Gemma2Model, builder.Gemma3Model = Gemma2, Gemma3
    rope = config.rope_parameters
    if "full_attention" in rope:
        # One set of parameters per kind of layer, which the builder indexes as if there were one.
        config.rope_theta = rope["full_attention"]["rope_theta"]
        config.rope_local_base_freq = rope["sliding_attention"]["rope_theta"]
        config.rope_parameters = {"rope_type": "default"} | dict(rope["full_attention"])
    elif rope.get("rope_type") in SCALED:
        take_angles(builder, config)
    elif rope.get("rope_type") == "longrope":
        _, factor = angles.frequencies(config)
        rope |= {"type": "longrope", "short_mscale": factor, "long_mscale": factor}
    elif config.model_type == "phi3":
        # The original context is a default that says nothing unless there are long and short
        # factors.
        config.original_max_position_embeddings = config.max_position_embeddings


def name_windows(config: Any) -> None:
    """Set the kind of every layer where `config` names a window alone, which means all of them."""
    if getattr(config, "sliding_window", None) and getattr(config, "layer_types", None) is None:
        config.layer_types = ["sliding_attention"] * config.num_hidden_layers


def take_angles(builder: Any, config: Any) -> None:
    """Have the tables of cosines and sines made from the frequencies that transformers computes."""
    own = copy.copy(config)

    def tables(self: Any) -> Any:
        """f32 [positions, frequencies] each."""
        return angles.of_config(own, self.rope_attrs["cache_length"])

    builder.LlamaModel.__base__.make_rotary_embedding_caches_from_scratch = tables
    config.rope_parameters = config.rope_parameters | {"rope_type": "default"}

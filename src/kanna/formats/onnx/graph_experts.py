"""Layers with experts as onnxruntime's operator `MoE`, of which its CPU has kernels.

Each is held by a tiny model in tests/formats/onnx, whose logits are those of transformers.
"""

from __future__ import annotations

from typing import Any

DOMAIN = "com.microsoft"
WEIGHTS = ("gate_up_proj", "down_proj")
"""Of a layer: gates and ups of all experts, row by row in turn, and downs."""
ROUTING = {"swiglu_fusion": 1, "activation_alpha": 1.0, "activation_beta": 0.0}
"""Attributes of an operator whose experts are those of a llama's feed-forward part."""


def weight(layer: int | str, part: str) -> str:
    """Name of the initializer with one of WEIGHTS of a layer."""
    return f"model.layers.{layer}.moe.experts.{part}.weight"


def routed(base: Any, config: Any, *, renormalised: bool, module: str = "mlp") -> Any:
    """A class whose layers route tokens to experts, and which is else its base.

    Args:
        base: A class of the builder.
        config: The config of the model, which is changed.
        renormalised: The weights of the experts that a token sees add up to 1.
        module: What transformers calls the feed-forward part of a layer.
    """
    count = getattr(config, "num_local_experts", None) or config.num_experts
    used = config.num_experts_per_tok
    config.num_local_experts = 0  # the builder would look for experts of a kind that it knows

    class Routed(base):
        def make_layer(self, layer_id: int, layer: Any) -> None:
            layer.mlp = getattr(layer, module)
            layer.mlp.every = getattr(layer.mlp, "shared_expert", None) or getattr(
                layer, "shared_mlp", None
            )
            super().make_layer(layer_id, layer)

        def make_mlp(self, layer_id: int, mlp: Any, root_input: str) -> None:
            """Make the experts of a layer in place of one feed-forward part."""
            at = f"/model/layers.{layer_id}/moe"
            logits = _times(self, f"{at}/router", _router(mlp), root_input)
            self.make_reshape(
                f"{at}/router/Reshape",
                [logits, f"/model/constants/INT64/{[-1, count]}"],
                dtype=self.io_dtype,
                shape=["batch_size * sequence_length", count],
            )
            routing = {"k": used, "normalize_routing_weights": int(renormalised)}
            output = _experts(self, layer_id, mlp.experts, root_input, routing)
            if mlp.every is not None:
                at = f"/model/layers.{layer_id}/mlp/shared_expert"
                shared = _shared(self, at, mlp, root_input)
                shape = self.make_hidden_state_shape()
                self.make_add(f"{at}/Add", [output, shared], dtype=self.io_dtype, shape=shape)
                output = f"{at}/Add/output_0"
            self.mlp_attrs["output_0"] = self.layernorm_attrs["skip_input"] = output

    return Routed


def _experts(graph: Any, layer: int, experts: Any, root_input: str, routing: dict[str, int]) -> str:
    """What the experts add that each token is routed to, by the logits that are there."""
    at = f"/model/layers.{layer}/moe"
    names = [weight(layer, part) for part in WEIGHTS]
    for name, values in zip(names, _weights(experts), strict=True):
        graph.make_initializer(values, name, to=graph.io_dtype)
    output = f"{at}/MoE/output_0"
    graph.make_node(
        "MoE",
        inputs=[root_input, f"{at}/router/Reshape/output_0", names[0], "", names[1]],
        outputs=[output],
        name=f"{at}/MoE",
        domain=DOMAIN,
        activation_type="swiglu",
        **ROUTING,
        **routing,
    )
    graph.make_value(output, graph.io_dtype, shape=graph.make_hidden_state_shape())
    return output


def _shared(graph: Any, at: str, mlp: Any, root_input: str) -> str:
    """What the expert adds that every token passes."""
    gate, up, down = _parts(mlp.every)
    wide = graph.make_hidden_state_shape(last_dim=gate.shape[0])
    inner = _times(graph, f"{at}/gate_proj", gate, root_input)
    graph.make_sigmoid(f"{at}/Sigmoid", inner, graph.io_dtype, shape=wide)
    inner = _product(graph, f"{at}/act/Mul", [inner, f"{at}/Sigmoid/output_0"], wide)
    other = _times(graph, f"{at}/up_proj", up, root_input)
    inner = _product(graph, f"{at}/Mul", [inner, other], wide)
    output = _times(graph, f"{at}/down_proj", down, inner)
    if (scale := getattr(mlp, "shared_expert_gate", None)) is None:
        return output
    share = _times(graph, f"{at}_gate", scale.weight, root_input)
    one = graph.make_hidden_state_shape(last_dim=1)
    graph.make_sigmoid(f"{at}_gate/Sigmoid", share, graph.io_dtype, shape=one)
    inputs = [output, f"{at}_gate/Sigmoid/output_0"]
    return _product(graph, f"{at}_gate/Mul", inputs, graph.make_hidden_state_shape())


def _times(graph: Any, at: str, values: Any, root_input: str) -> str:
    """A product with a matrix [out, in]."""
    return f"{graph.make_matmul(_matrix(values), f'{at}/MatMul', root_input)}/output_0"


def _product(graph: Any, name: str, inputs: list[str], shape: list[Any]) -> str:
    """A product element by element."""
    graph.make_mul(name, inputs, dtype=graph.io_dtype, shape=shape)
    return f"{name}/output_0"


def _router(mlp: Any) -> Any:
    return (mlp.gate if hasattr(mlp, "gate") else mlp.router).weight


def _weights(experts: Any) -> tuple[Any, Any]:
    """Gates and ups in turn, f32 [experts, 2 width, hidden], and downs [experts, hidden, width]."""
    import torch

    both = experts.gate_up_proj
    return torch.stack(both.chunk(2, dim=1), dim=2).reshape(both.shape), experts.down_proj


def _parts(mlp: Any) -> tuple[Any, Any, Any]:
    """Gate, up and down of a feed-forward part, of which the first two may be one matrix."""
    if hasattr(mlp, "input_linear"):
        return *mlp.input_linear.weight.chunk(2, dim=0), mlp.output_linear.weight
    return mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight


def _matrix(values: Any) -> Any:
    """A matrix [out, in] as a module, which is what the builder takes."""
    import torch

    module = torch.nn.Linear(values.shape[1], values.shape[0], bias=False)
    module.weight = torch.nn.Parameter(values)
    return module

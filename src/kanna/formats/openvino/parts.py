"""What every part of a decoder's graph is made of: its sizes, its weights, and sums over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from kanna.formats.openvino.ir import Graph, Shape, Value
from kanna.formats.openvino.rotation import Rotation

Weight = Callable[[Graph, str], Value]
"""Adds a tensor of the model to the graph by its Hugging Face name, as f32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderShape:
    """Sizes of a decoder.

    Attributes:
        layers: Decoder layers.
        heads, kv_heads: Heads of queries, and of keys and values.
        head_size: Values of a head.
        epsilon: Added to the mean square in norms.
        rotation: Angles of positions.
        window_rotation: Those of layers with a window, where they have others.
        windows: Tokens that a layer sees, by its number; those missing see all.
        unturned: Layers that know no positions.
        paired: Whether the values that turn together lie side by side, not half a head apart.
        norm_offset: Added to the weights of norms.
        centred: Whether norms subtract the mean.
        gelu: Whether gates are GELU by tanh, not SiLU.
        scales: What is multiplied: `embedding`, `residual`, `queries`, `logits`; those missing, by
            1.
        caps: What cannot grow beyond a number, since it goes through tanh: `attention`, `logits`.
    """

    layers: int
    heads: int
    kv_heads: int
    head_size: int
    epsilon: float
    rotation: Rotation
    window_rotation: Rotation | None = None
    windows: Mapping[int, int] = field(default_factory=dict[int, int])
    unturned: frozenset[int] = frozenset()
    paired: bool = False
    norm_offset: float = 0.0
    centred: bool = False
    gelu: bool = False
    scales: Mapping[str, float] = field(default_factory=dict[str, float])
    caps: Mapping[str, float] = field(default_factory=dict[str, float])


class DecoderParts:
    """A graph in the making, and the operations that all parts of it share."""

    def __init__(self, shape: DecoderShape, weight: Weight, tensors: Mapping[str, Shape]) -> None:
        """Begin a graph.

        Args:
            shape: Sizes of the model.
            weight: Adds a tensor to the graph.
            tensors: Shapes by Hugging Face name; what is not there is not in the graph.
        """
        self.graph, self.shape, self.tensors = Graph(), shape, tensors
        self._add_weight, self._weights = weight, dict[str, Value]()

    @property
    def used(self) -> set[str]:
        """Names of the tensors that the graph reads."""
        return set(self._weights)

    def weight(self, name: str) -> Value:
        """A tensor, which is added to the graph once."""
        if name not in self._weights:
            self._weights[name] = self._add_weight(self.graph, name)
        return self._weights[name]

    def first(self, *names: str) -> str:
        """The first of these tensors that the model has, or else the last of them."""
        return next((name for name in names if name in self.tensors), names[-1])

    def linear(self, x: Value, name: str) -> Value:
        """`x` times a matrix, and its bias where it has one."""
        y = self.graph.matmul(x, self.weight(f"{name}.weight"), transposed=True)
        return self._biased(y, name)

    def scaled(self, x: Value, what: str) -> Value:
        """`x` times the number of that name in `scales`."""
        factor = self.shape.scales.get(what, 1.0)
        return x if factor == 1 else self.times(x, factor)

    def times(self, x: Value, factor: float) -> Value:
        """`x` times a number."""
        return self.graph.binary("Multiply", x, self.graph.constant(factor, "f32"))

    def capped(self, x: Value, what: str) -> Value:
        """Cap · tanh(x / cap), with the cap of that name in `caps`."""
        cap = self.shape.caps.get(what, 0.0)
        return x if not cap else self.times(self.graph.unary("Tanh", self.times(x, 1 / cap)), cap)

    def norm(self, x: Value, name: str) -> Value:
        """X / √(mean(x²) + ε), or (x - mean) / σ, times the weight; a bias where there is one."""
        g = self.graph
        weight = self.weight(name)
        if offset := self.shape.norm_offset:
            weight = g.binary("Add", weight, g.constant(offset, "f32"))
        y = self._centred(x) if self.shape.centred else self._by_root(x)
        return self._biased(g.binary("Multiply", weight, y), name.removesuffix(".weight"))

    def _biased(self, x: Value, module: str) -> Value:
        bias = f"{module}.bias"
        return self.graph.binary("Add", x, self.weight(bias)) if bias in self.tensors else x

    def _by_root(self, x: Value) -> Value:
        g, one = self.graph, self.graph.constant
        square = g.binary("Power", x, one(2.0, "f32"))
        mean = g.add(
            "ReduceMean",
            [square, one([-1], "i64")],
            ("f32", (*x.shape[:-1], 1)),
            attributes={"keep_dims": True},
        )
        root = g.unary("Sqrt", g.binary("Add", mean, one(self.shape.epsilon, "f32")))
        return g.binary("Multiply", x, g.binary("Divide", one(1.0, "f32"), root))

    def _centred(self, x: Value) -> Value:
        return self.graph.add(
            "MVN",
            [x, self.graph.constant([-1], "i64")],
            ("f32", x.shape),
            version="opset6",
            attributes={
                "eps": self.shape.epsilon,
                "normalize_variance": True,
                "eps_mode": "inside_sqrt",
            },
        )

"""What of a model decides how long its optimization takes: shapes of its matrices, no weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kanna.calibration.second_moments import block_of, block_of_experts
from kanna.calibration.sites import HEAD, is_stack, own_reads, site_of
from kanna.calibration.windows import WINDOW
from kanna.model import Model, Tensor, columns, num_rows
from kanna.optimization.probe import kind_of
from kanna.plan import roles

WIDEST = 4096
"""As calibration has it: wider second moments are in blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixShape:
    """A matrix that is quantized, or a stack of them.

    Attributes:
        site: Where it reads its inputs; None: no text runs through it.
        rows: Of all experts together.
        experts: How many there are, 1 where it is no stack.
        block: Width of the blocks of its second moment.
    """

    name: str
    kind: str
    site: str | None
    rows: int
    columns: int
    experts: int
    block: int

    @property
    def weights(self) -> int:
        """How many there are."""
        return self.rows * self.columns


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShapes:
    """The shapes of a model.

    Attributes:
        matrices: All that may be quantized.
        vocabulary: Rows of the embedding.
        hidden: Its columns.
        layers: How many there are.
        heads: Columns of all heads of attention together.
        used: Experts that a token goes to.
        parameters: Of the whole model.
        window: Tokens that it reads at a time.
    """

    matrices: tuple[MatrixShape, ...]
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    used: int
    parameters: int
    window: int

    @property
    def body(self) -> int:
        """Weights of all layers."""
        return sum(m.weights for m in self.matrices if m.name.startswith("blk."))

    @property
    def active(self) -> float:
        """Weights of all layers that a token is multiplied by."""
        return sum(
            m.weights * (self.used / m.experts if m.experts > 1 else 1)
            for m in self.matrices
            if m.name.startswith("blk.")
        )

    @property
    def head(self) -> int:
        """Weights of the head."""
        return self.vocabulary * self.hidden

    @property
    def kinds(self) -> int:
        """Kinds of matrices."""
        return len({m.kind for m in self.matrices})

    def sites(self) -> Iterator[list[MatrixShape]]:
        """Matrices that read the same inputs, together."""
        by_site: dict[str, list[MatrixShape]] = {}
        for matrix in self.matrices:
            if matrix.site is not None:
                by_site.setdefault(matrix.site, []).append(matrix)
        yield from by_site.values()

    def largest_layer(self) -> int:
        """Weights of the layer that has most."""
        layers: dict[str, int] = {}
        for matrix in self.matrices:
            if matrix.name.startswith("blk."):
                layer = matrix.name.split(".")[1]
                layers[layer] = layers.get(layer, 0) + matrix.weights
        return max(layers.values(), default=0)

    def moment_bytes(self) -> int:
        """Bytes of all second moments, with those of experts."""
        return sum(
            4 * m.columns * m.block * (1 + (m.experts if m.experts > 1 else 0))
            for first in self.sites()
            for m in first[:1]
        )


def shapes_of(model: Model) -> ModelShapes:
    """The shapes of a model, whose weights need not be there."""
    table = model.tensors["token_embd.weight"]
    tied = "output.weight" not in model.tensors
    own = own_reads(model)
    matrices = [
        _matrix(name, tensor, tied, own)
        for name, tensor in model.tensors.items()
        if roles.quantizable(tensor) and len(tensor.shape) in (2, 3)
    ]
    queries = [m.rows for m in matrices if m.kind in ("attn_q", "attn_output")]
    return ModelShapes(
        matrices=tuple(matrices),
        vocabulary=num_rows(table),
        hidden=columns(table),
        layers=len({n.split(".")[1] for n in model.tensors if n.startswith("blk.")}),
        heads=max(queries, default=columns(table)),
        used=max(1, model.whole("{arch}.expert_used_count", 0)),
        parameters=model.num_parameters,
        window=min(WINDOW, model.whole("{arch}.context_length", 0) or WINDOW),
    )


def _matrix(name: str, tensor: Tensor, tied: bool, own: Mapping[str, str]) -> MatrixShape:
    width = columns(tensor)
    experts = tensor.shape[0] if is_stack(name) and len(tensor.shape) == 3 else 1
    site = site_of(name, tied=tied, own_reads=own)
    block = block_of(width, WIDEST)
    if experts > 1:
        block = block_of_experts(width, WIDEST, experts)
    return MatrixShape(
        name=name,
        kind=HEAD if site == HEAD else kind_of(name),
        site=site,
        rows=num_rows(tensor),
        columns=width,
        experts=experts,
        block=block,
    )

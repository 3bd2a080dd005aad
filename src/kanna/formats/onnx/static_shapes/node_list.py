"""Nodes of a graph in the making, one after another, with the small constants that they read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class NodeList:
    """Nodes in the order in which they run, and initializers, each of them there once.

    Attributes:
        nodes: onnx.NodeProto.
        initializers: onnx.TensorProto.
    """

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._made: dict[str, str] = {}

    def add(
        self,
        operator: str,
        inputs: Sequence[str],
        name: str,
        *,
        output: str = "",
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Append a node; the name of its one output, `name`/output_0 unless `output` says."""
        from onnx import helper

        output = output or f"{name}/output_0"
        self.nodes.append(
            helper.make_node(operator, inputs, [output], name, domain=domain or None, **attributes)
        )
        return output

    def once(self, operator: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """As `add`, of a node that several parts share: the second call appends nothing."""
        if name not in self._made:
            self._made[name] = self.add(operator, inputs, name, **attributes)
        return self._made[name]

    def constant(self, values: Any, dtype: Any) -> str:
        """Name of an initializer with these values."""
        from onnx import numpy_helper

        array: NDArray[Any] = np.asarray(values, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"/static/constants/{array.dtype.name}/{len(self._constants)}"
            self._constants[key] = name
            self.initializers.append(numpy_helper.from_array(array, name))
        return self._constants[key]

    def integers(self, *values: int) -> str:
        """Name of a list of int64, as shapes and axes are given."""
        return self.constant(values, np.int64)

"""Conversion to QDQ graphs by a plan: codes of 4 or 8 bits with a scale per channel, by matrix."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kanna.conversion import onnx_provider
from kanna.conversion.base import (
    ConversionRequest,
    ConvertResult,
    SizedPlan,
    WriteOptions,
    described,
)
from kanna.conversion.guidance import Guidance
from kanna.conversion.nbits_sizes import EMBEDDING, HEAD, NBitsSizes, NodePlan
from kanna.conversion.onnx_derived import DerivedConversion
from kanna.encodings import get
from kanna.encodings.grouped import channel
from kanna.errors import PlanError, UnsupportedError
from kanna.formats.onnx import files, quantize
from kanna.formats.onnx.code_room import CodeRoom
from kanna.model import Model
from kanna.plan import Plan, Substitution
from kanna.plan import onnx as presets
from kanna.plan.onnx_derived import DERIVED
from kanna.sources import Source

_WIDE = channel.name_of(8)


class ChannelSizes(NBitsSizes):
    """Bytes of QDQ folders of one model.

    Without a folder that shows the room of codes those of weights and scales; with one for each
    place of the codes of activations, those of every file.
    """

    def __init__(
        self,
        source: Source,
        model: Model,
        guidance: Guidance,
        *,
        graph: Path | None = None,
        room: Mapping[str, CodeRoom] | None = None,
    ) -> None:
        """Look at a model.

        Args:
            source: Where it came from.
            model: Its tensors.
            guidance: How values are chosen.
            graph: model.onnx of its float graph, where there is `room`.
            room: Folders of fixed shapes, by `Plan.activation_codes`.
        """
        super().__init__(source, model, guidance)
        self._float, self._room = graph, room or {}

    def preset(self, name: str) -> Plan:
        """The plan of a preset; those of QDQ graphs say what each matrix gets."""
        if name not in DERIVED or not DERIVED[name].wide:
            return super().preset(name)
        plan = presets.channel_plan(name)
        if HEAD not in self.model.tensors:
            rules = [rule for rule in plan.rules if HEAD.split(".")[0] not in rule.pattern]
            plan = plan.model_copy(update={"rules": rules})
        plan.origin = ("preset", name)
        return plan

    def nodes(self, plan: Plan) -> NodePlan:
        """The plan over the products of the graph; rows of an embedding have codes of 8 bits.

        Raises:
            PlanError: The plan cannot hold the model.
            UnsupportedError: The model has experts, whose nodes multiply no such codes.
        """
        if any(len(tensor.shape) > 2 for tensor in self.model.tensors.values()):
            raise UnsupportedError(
                "experts of a layer are one node, which multiplies no codes with a scale per "
                "channel",
                expected="a model without experts",
                todo="--preset onnx:int4, or another format",
            )
        nodes = super().nodes(plan)
        if nodes.cut:
            raise PlanError(
                f"a rule of the plan names {HEAD}, which this model has not: its head is its "
                f"embedding, and both read the same codes",
                expected=f"a rule for {EMBEDDING}",
            )
        entries, wanted = dict(nodes.entries), nodes.entries[EMBEDDING].encoding.name
        if wanted == _WIDE or (wanted == "f32" and self.tied):
            return nodes
        entries[EMBEDDING] = replace(entries[EMBEDDING], encoding=get(_WIDE))
        reason = "rows are looked up in codes of 8 bits"
        changed = Substitution(name=EMBEDDING, wanted=wanted, got=_WIDE, reason=reason)
        resolved = replace(
            nodes.resolved,
            entries=list(entries.values()),
            substitutions=[*nodes.resolved.substitutions, changed],
        )
        return replace(nodes, resolved=resolved, entries=entries)

    def sized(self, plan: Plan) -> SizedPlan:
        """The plan tensor by tensor, with the bytes of the folder as far as they are known."""
        nodes = self.nodes(plan)
        sized, room = self.sized_nodes(nodes), self._room.get(plan.activation_codes or "products")
        if room is None or self._float is None:
            return sized
        return replace(sized, file_bytes=room.of(self.bits(nodes, self._matrices)))

    @cached_property
    def _matrices(self) -> Mapping[str, str]:
        return self.matrices(self._float) if self._float else {}

    def matrices(self, graph: Path) -> dict[str, str]:
        """What a float graph multiplies by: GGUF names by initializer; of q, k and v that of q.

        Args:
            graph: model.onnx of it.
        """
        names: dict[str, str] = {}
        for node in files.load(graph).graph.node:
            held = quantize.sources(node.input[1], self.tensors) if node.op_type == "MatMul" else []
            if held:
                names[node.input[1]] = self.gguf_names[held[0]]
        return names

    def bits(self, nodes: NodePlan, matrices: Mapping[str, str]) -> dict[str, int]:
        """Bits of the codes of every matrix that has some, by its initializer.

        Args:
            nodes: The plan.
            matrices: Of the float graph.
        """
        widths = {
            initializer: channel.bits_of(nodes.entries[name].encoding.name)
            for initializer, name in matrices.items()
            if name in nodes.entries
        }
        return {initializer: bits for initializer, bits in widths.items() if bits}


class ChannelConversion(DerivedConversion):
    """A conversion to an ONNX folder whose matrices have codes with a scale per channel.

    Attributes:
        graph: A folder with the float graph; None: it is built.
        blank: Whether codes and ranges stand for nothing, and only their room is looked at.
    """

    def __init__(
        self,
        source: Source,
        model: Model,
        out: Path | None,
        request: ConversionRequest,
        plan: Plan,
    ) -> None:
        """Check a plan; a request's own plan, encoding and preset do not count."""
        whole = plan.activation_codes == "all"
        if whole and request.static is None:
            raise PlanError(
                'the plan has "activation_codes": "all", inside of attention too, which graphs of '
                "any length have as one node",
                expected="--static CHUNKxCONTEXT",
                todo="add --static 64x1024",
            )
        kind = f"{onnx_provider.CHANNELS}-full" if whole else onnx_provider.CHANNELS
        super().__init__(
            source, model, out, replace(request, plan=None, encoding=None, preset=kind)
        )
        self.plan, self.blank = plan, False
        self.graph: Path | None = None
        self.sizes = ChannelSizes(source, model, Guidance())
        self.sizes.static = self.shape and str(self.shape)
        self.sizes.provider = self.provider and self.provider.name
        self.nodes = self.sizes.nodes(plan)
        self.command = self.sizes.command(plan)
        used = [entry.encoding.name for entry in self.nodes.entries.values()]
        onnx_provider.check_channels(self.provider, used)

    def describe(self) -> ConvertResult:
        """What would be written, but for the graph; the bytes are those of weights and scales."""
        sized = self.sizes.sized_nodes(self.nodes)
        return described(sized, paths=[self.out], command=self.command, notes=self.notes)

    def build(self, made: Path, scratch: Path, options: WriteOptions) -> None:
        """Have the float32 graph made, or take that which is there."""
        if self.graph is None:
            super().build(made, scratch, options)
        else:
            shutil.copytree(self.graph, made)

    def by_matrix(self, graph: Path) -> dict[str, int]:
        """Bits of the matrices of the plan."""
        return self.sizes.bits(self.nodes, self.sizes.matrices(graph))

    def calibration_ids(self) -> NDArray[np.int64] | None:
        """The built-in calibration text, unless values stand for nothing."""
        return None if self.blank else super().calibration_ids()

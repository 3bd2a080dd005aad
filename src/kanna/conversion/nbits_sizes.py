"""Sizes of ONNX folders with weights of 2, 4 and 8 bits, and plans over their graphs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from kanna import encodings, families, provenance
from kanna.conversion import expert_nodes, onnx_provider
from kanna.conversion.base import (
    SizedPlan,
    get_preset,
)
from kanna.conversion.guidance import Guidance
from kanna.conversion.hf_folder import hf_folder, with_dtype
from kanna.conversion.hf_rows import over
from kanna.encodings.grouped.nbits import parse
from kanna.errors import UsageError
from kanna.families import COMPUTED
from kanna.formats.onnx import build, quantize
from kanna.formats.onnx.quantize import Matrix
from kanna.formats.views import Renamed
from kanna.hardware import providers
from kanna.methods.hessian import SecondMoment
from kanna.model import F32, Model, Tensor, columns, num_rows, num_weights
from kanna.plan import Plan, Resolved, Substitution, TensorPlan, resolve, roles
from kanna.plan import onnx as presets
from kanna.sources import Source

HEAD, EMBEDDING = "output.weight", "token_embd.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """A plan over the nodes of a graph.

    Attributes:
        plan: In encodings of ONNX.
        entries: By GGUF name, over rows in the order of Hugging Face, which is the graph's.
        cut: Whether head and embedding, one tensor of the model, become two.
    """

    plan: Plan
    resolved: Resolved
    entries: Mapping[str, TensorPlan]
    cut: bool

    def accuracy(self, name: str) -> int:
        """accuracy_level of the node of a matrix."""
        level = next((r.accuracy for r in self.plan.rules if re.search(r.pattern, name)), None)
        return presets.INT8 if level is None else level

    def slow(self) -> list[str]:
        """Matrices that onnxruntime widens for every token."""
        kinds = {e.name: parse(e.encoding.name) for e in self.entries.values()}
        return [
            name
            for name, kind in kinds.items()
            if kind and kind.bits not in presets.KERNELS and self.accuracy(name) == presets.EXACT
        ]

    def matrix(self, entries: Sequence[TensorPlan]) -> Matrix | None:
        """The node of some matrices; None where they stay float."""
        kind = parse(entries[0].encoding.name)
        if kind is None:
            return None
        return Matrix(
            kind=kind, parts=entries, accuracy=min(self.accuracy(e.name) for e in entries)
        )


class NBitsSizes:
    """Bytes of ONNX folders of one model, whose tensors are looked up once.

    Without the float graph those of weights and scales; with it, those of every file.
    """

    def __init__(
        self, source: Source, model: Model, guidance: Guidance, *, graph: Path | None = None
    ) -> None:
        """Look at a model; `graph` is a folder that `NBitsConversion.build` made."""
        self.source, self.model, self.guidance, self._graph = source, model, guidance, graph
        self.tied = HEAD not in model.tensors
        self.static: str | None = None
        """CHUNKxCONTEXT of graphs of fixed shapes, which the command that makes them says."""
        self.provider: str | None = None
        """The execution provider that it is for, which that command says, too."""

    @cached_property
    def _exported(self) -> tuple[Mapping[str, Any], Mapping[str, Tensor], Mapping[str, bytes]]:
        families.require(self.model, build.REFUSED, "ONNX graph")
        folder = hf_folder(self.source, self.model, stacked=True)
        build.preflight(folder.config, folder.tensors)
        extras = build.extras(self.model.config, families.end_ids(self.model))
        return with_dtype(folder.config | extras, "float32"), folder.tensors, folder.files

    @property
    def config(self) -> Mapping[str, Any]:
        """config.json of the float model that the graph is built from."""
        return self._exported[0]

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The tensors of that model, experts in stacks."""
        return self._exported[1]

    @property
    def published(self) -> Mapping[str, Tensor]:
        """The tensors of that model as transformers reads them."""
        return hf_folder(self.source, self.model).tensors

    @property
    def files(self) -> Mapping[str, bytes]:
        """Its side files."""
        return self._exported[2]

    @cached_property
    def gguf_names(self) -> dict[str, str]:
        """GGUF name of every tensor of that model."""
        own = (name for name in self.model.tensors if name not in COMPUTED)
        return dict(zip(self.tensors, own, strict=True))

    @cached_property
    def _hf_names(self) -> dict[str, str]:
        return {own: name for name, own in self.gguf_names.items()}

    def preset(self, name: str) -> Plan:
        """The plan of a preset for this model; raises UsageError for an unknown one."""
        plan = get_preset(presets.PRESETS, name, "onnx").plan(self.model)
        return plan.with_method(self.guidance.method)

    def nodes(self, plan: Plan) -> NodePlan:
        """The plan over the nodes of the graph; raises PlanError where it cannot hold the model."""
        if plan.preset is not None:
            raise UsageError(
                f"the plan names {plan.preset}, a preset of GGUF",
                expected='"encoding": "nbits4g32"',
            )
        plan = plan.model_copy(update={"encoding": plan.encoding or "f32"})
        presets.check_encodings(plan)
        # Ties that the plan cuts: the head becomes a tensor of its own.
        cut = self.tied and any(re.search(r.pattern, HEAD) for r in plan.rules)
        seen = replace(self.model, tensors=dict(self.model.tensors))
        if cut:
            seen.tensors[HEAD] = Renamed(HEAD, self.model.tensors[EMBEDDING])
        presets.check_shapes(seen, plan)
        resolved = resolve(
            seen,
            plan=plan,
            weights=self._weights(cut),
            second_moments=self._moments(cut),
            method=self.guidance.method,
        )
        entries = {e.name: self._entry(e) for e in resolved.entries}
        shared = self._share(entries)
        resolved = replace(
            resolved,
            entries=list(entries.values()),
            substitutions=[*resolved.substitutions, *shared],
        )
        return NodePlan(plan=plan, resolved=resolved, entries=entries, cut=cut)

    def _weights(self, cut: bool) -> Mapping[str, F32] | None:
        if self.guidance.statistics is None:
            return None
        weights = dict(self.guidance.statistics.weights)
        if cut and EMBEDDING in weights:
            weights[HEAD] = weights.pop(EMBEDDING)
        return weights

    def _moments(self, cut: bool) -> Callable[[str], SecondMoment | None] | None:
        known = self.guidance.second_moments
        if known is None or not cut:
            return known

        def moment(name: str) -> SecondMoment | None:
            if name == EMBEDDING:
                return None
            return known(EMBEDDING if name == HEAD else name)

        return moment

    def _entry(self, entry: TensorPlan) -> TensorPlan:
        """The same, over rows in the order of Hugging Face; only matrices are encoded."""
        if not roles.quantizable(entry.tensor):
            f32 = encodings.get("f32")
            entry = TensorPlan(name=entry.name, tensor=entry.tensor, encoding=f32, method="nearest")
        name = self._hf_names.get(entry.name)
        return over(self.model, entry, self.tensors[name]) if name else entry

    def joined(self, own: str) -> list[str]:
        """GGUF names of the matrices that share the encoding of one, itself among them, in order.

        q, k and v are one matrix in the graph, and one operator has all of a layer's experts.
        """
        if members := expert_nodes.members(own, self.model.tensors):
            return members
        joined = quantize.joined(self._hf_names.get(own, own), self.tensors)
        return [self.gguf_names.get(name, name) for name in joined]

    def _share(self, entries: dict[str, TensorPlan]) -> list[Substitution]:
        """Give matrices of one node one encoding: the widest that any of them was meant to have."""
        substitutions: list[Substitution] = []
        for own in self.gguf_names.values():
            group = self.joined(own)
            if len(group) < 2 or group[0] != own:
                continue
            kinds = [entries[n].encoding.name for n in group]
            routed = expert_nodes.is_expert(own)
            common = expert_nodes.common(kinds) if routed else presets.widest(kinds)
            reason = f"one node {'has' if routed else 'multiplies by'} all of {', '.join(group)}"
            for name in group:
                entry = entries[name]
                if entry.encoding.name != common:
                    substitutions.append(
                        Substitution(
                            name=name, wanted=entry.encoding.name, got=common, reason=reason
                        )
                    )
                    entries[name] = replace(entry, encoding=encodings.get(common))
        return substitutions

    def sized_nodes(self, nodes: NodePlan) -> SizedPlan:
        """The bytes of weights and scales of a plan over nodes."""
        entries = [e for name, e in nodes.entries.items() if name not in COMPUTED]
        nbytes = {e.name: _nbytes(e) for e in entries}
        total = sum(num_weights(e.tensor) for e in entries if not (nodes.cut and e.name == HEAD))
        bits = 8 * sum(nbytes.values()) / total
        return SizedPlan(
            resolved=replace(nodes.resolved, entries=entries, bits=bits),
            file_bytes=sum(nbytes.values()),
            nbytes=nbytes,
        )

    def sized(self, plan: Plan) -> SizedPlan:
        """The plan tensor by tensor, with the bytes of the folder as far as they are known."""
        nodes = self.nodes(plan)
        sized = self.sized_nodes(nodes)
        if self._graph is None:
            return sized
        return replace(sized, file_bytes=self.folder_bytes(plan, nodes, self._graph))

    def of(self, plan: Plan) -> int:
        """Bytes of weights and scales, or with the float graph of the whole folder."""
        return self.sized(plan).file_bytes

    def command(self, plan: Plan) -> str:
        """The command that makes the artefact of a plan again."""
        option, value = plan.origin or ("", "")
        options: dict[str, object] = {"format": "onnx"}
        if option == "preset":
            options = {"preset": f"onnx:{value}"}
        elif option:
            options[option] = value
        guidance = {k: v for k, v in self.guidance.options.items() if k != "imatrix"}
        options = {**options, **guidance, "static": self.static, "provider": self.provider}
        return provenance.command(self.source, options)

    def properties(self, plan: Plan, nodes: NodePlan) -> dict[str, str]:
        """What the graph says of how it was made."""
        statistics = self.guidance.statistics
        keys = provenance.keys(
            self.model,
            self.source,
            nodes.resolved,
            hashes=self.source.hashes(),
            command=self.command(plan),
            statistics=statistics,
        )
        return {
            k: v.value
            for k, v in keys.items()
            if k.startswith("kanna.") and isinstance(v.value, str)
        }

    def prepare(self, plan: Plan, nodes: NodePlan, graph: Path) -> quantize.Prepared:
        """The graph with the matrices of the plan, laid out and not written."""
        shared: dict[str, Matrix | None] = {}

        def choose(names: Sequence[str]) -> Matrix | None:
            own = [self.gguf_names[n] for n in names]
            if nodes.cut and own == [EMBEDDING]:
                own = [HEAD]
            if own[0] not in shared:
                shared[own[0]] = nodes.matrix([nodes.entries[n] for n in own])
            return shared[own[0]]

        embedding: Matrix | TensorPlan | None = nodes.entries[EMBEDDING]
        if parse(embedding.encoding.name):
            # Where head and embedding are tied, both are the one matrix.
            embedding = shared[EMBEDDING] = nodes.matrix([embedding])
        assert embedding is not None
        return quantize.prepare(
            graph,
            tensors=self.tensors,
            choose=choose,
            experts=lambda layer: expert_nodes.stacks(layer, nodes.entries),
            embedding=embedding,
            properties=self.properties(plan, nodes),
        )

    def folder_bytes(self, plan: Plan, nodes: NodePlan, graph: Path) -> int:
        """Bytes of the artefact that is made from a graph, all files counted."""
        side = sum(p.stat().st_size for p in side_files(graph))
        profile = providers.get(self.provider) if self.provider else None
        side += onnx_provider.added_bytes(graph, profile)
        return self.prepare(plan, nodes, graph).nbytes + side


def _nbytes(entry: TensorPlan) -> int:
    kind = parse(entry.encoding.name)
    return num_rows(entry.tensor) * kind.row_bytes(columns(entry.tensor)) if kind else entry.nbytes


def side_files(graph: Path) -> list[Path]:
    """The files beside a graph that the artefact has too."""
    return [p for p in graph.rglob("*") if p.is_file() and p.name not in (build.GRAPH, build.DATA)]

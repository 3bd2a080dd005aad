"""Conversion to an ONNX folder with weights of 2, 4 and 8 bits.

The builder's graph, and values of our own choice.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kanna import encodings, families, plan, provenance
from kanna._util.peak_memory import Peak
from kanna.conversion.base import ConvertResult, Request, Running, described, floats, folder_written
from kanna.conversion.guidance import informed
from kanna.conversion.hf_rows import over
from kanna.encodings.grouped.nbits import parse
from kanna.errors import UsageError
from kanna.families import COMPUTED
from kanna.families.views import Renamed
from kanna.formats import safetensors
from kanna.formats.gguf.write import WriteResult
from kanna.formats.onnx import build, quantize
from kanna.formats.onnx.quantize import Matrix
from kanna.formats.stream import explain, replacing
from kanna.methods.hessian import SecondMoment
from kanna.model import F32, Model, columns, num_rows, num_weights
from kanna.plan import Plan, Substitution, TensorPlan, roles
from kanna.plan import onnx as presets
from kanna.sources import Source

HEAD, EMBEDDING = "output.weight", "token_embd.weight"


class ToNBits:
    """A conversion to an ONNX folder whose matrices are MatMulNBits nodes."""

    late_hashes = False

    def __init__(self, source: Source, model: Model, out: Path | None, request: Request) -> None:
        self.source, self.model, self.request = source, model, request
        self.out = out or Path(f"{source.name}-onnx")
        given = informed(source, model, request)
        self.statistics, self.method = given.statistics, given.method
        self.plan = self._plan()
        presets.check_encodings(self.plan)
        config, self.tensors, self.files = families.to_hf(model)
        build.preflight(config, self.tensors)
        self.config = config | build.windows(model.config) | {"torch_dtype": "float32"}
        self.ours = dict(
            zip(self.tensors, (n for n in model.tensors if n not in COMPUTED), strict=True)
        )
        # Ties that the plan cuts: the head becomes a tensor of its own.
        self.tied = HEAD not in model.tensors
        self.cut = self.tied and any(re.search(r.pattern, HEAD) for r in self.plan.rules)
        seen = replace(model, tensors=dict(model.tensors))
        if self.cut:
            seen.tensors[HEAD] = Renamed(HEAD, model.tensors[EMBEDDING])
        presets.check_shapes(seen, self.plan)
        self.resolved = plan.resolve(
            seen,
            plan=self.plan,
            weights=self._weights(),
            second_moments=self._second_moment if self.statistics else None,
            method=self.method,
        )
        self.entries = {e.name: self._entry(e) for e in self.resolved.entries}
        self.substitutions = self._share()
        self.command = provenance.command(
            source,
            {
                "preset": f"onnx:{request.preset or 'int4'}"
                if not (request.encoding or request.plan)
                else None,
                "format": "onnx" if request.encoding or request.plan else None,
                "encoding": request.encoding,
                "plan": Path(request.plan) if isinstance(request.plan, (str, Path)) else None,
                "statistics": self.statistics.folder if self.statistics else None,
                "method": given.unusual,
            },
        )

    def _plan(self) -> Plan:
        given = self.request.plan
        if given is not None:
            found = plan.load(given) if isinstance(given, (str, Path)) else given
        elif self.request.encoding is not None:
            name = encodings.get(self.request.encoding).name
            found = Plan(name=name, encoding=name)
        else:
            found = presets.preset(self.request.preset or "int4", self.model)
        if found.preset is not None:
            raise UsageError(
                f"the plan names {found.preset}, a preset of GGUF",
                expected='"encoding": "nbits4g32"',
            )
        # Only what a plan file says of methods is the user's; of presets, it is whatever the
        # statistics allow.
        if given is None:
            found = found.model_copy(
                update={
                    "rules": [r.model_copy(update={"method": self.method}) for r in found.rules]
                }
            )
        return found.model_copy(update={"encoding": found.encoding or "f32"})

    def _weights(self) -> Mapping[str, F32] | None:
        if self.statistics is None:
            return None
        found = dict(self.statistics.weights)
        if self.cut and EMBEDDING in found:
            found[HEAD] = found.pop(EMBEDDING)
        return found

    def _second_moment(self, name: str) -> SecondMoment | None:
        assert self.statistics is not None
        if self.cut and name in (HEAD, EMBEDDING):
            return self.statistics.second_moment(EMBEDDING) if name == HEAD else None
        return self.statistics.second_moment(name)

    def _entry(self, entry: TensorPlan) -> TensorPlan:
        """The same, over rows in the order of Hugging Face, which is the graph's.

        Only matrices are encoded.
        """
        if not roles.quantizable(entry.tensor):
            f32 = encodings.get("f32")
            entry = TensorPlan(name=entry.name, tensor=entry.tensor, encoding=f32, method="nearest")
        theirs = next((t for t, ours in self.ours.items() if ours == entry.name), None)
        return over(self.model, entry, self.tensors[theirs]) if theirs else entry

    def _share(self) -> list[Substitution]:
        """Matrices of one node must share an encoding: the widest that any of them was given."""
        found = list(self.resolved.substitutions)
        for theirs, ours in self.ours.items():
            group = [self.ours[n] for n in quantize.joined(theirs, self.tensors)]
            if len(group) < 2 or group[0] != ours:
                continue
            wanted = presets.widest(self.entries[n].encoding.name for n in group)
            for name in group:
                entry = self.entries[name]
                if entry.encoding.name == wanted:
                    continue
                encoding = next(
                    self.entries[n].encoding
                    for n in group
                    if self.entries[n].encoding.name == wanted
                )
                reason = "one node multiplies by all of " + ", ".join(group)
                found.append(
                    Substitution(name=name, wanted=entry.encoding.name, got=wanted, reason=reason)
                )
                self.entries[name] = replace(entry, encoding=encoding)
        return found

    def _nbytes(self, entry: TensorPlan) -> int:
        kind = parse(entry.encoding.name)
        return (
            num_rows(entry.tensor) * kind.row_bytes(columns(entry.tensor)) if kind else entry.nbytes
        )

    def describe(self) -> ConvertResult:
        entries = [e for name, e in self.entries.items() if name not in COMPUTED]
        sizes = {e.name: self._nbytes(e) for e in entries}
        notes = [
            *build.notes(self.model, self.config),
            "the graph and its tables of angles come on top of these bytes",
        ]
        if slow := self._slow():
            more = f" and {len(slow) - 1} more" if len(slow) > 1 else ""
            notes.append(
                f"accuracy 0 of {slow[0]}{more}: onnxruntime has no such product with 2 or 8 bits and widens the matrix"
                " for every token, about a hundred times as slow"
            )
        result = described(
            replace(self.resolved, entries=entries, substitutions=self.substitutions),
            paths=[self.out],
            file_bytes=sum(sizes.values()),
            preset=self.plan.name,
            command=self.command,
            notes=notes,
        )
        total = sum(num_weights(e.tensor) for e in entries if not (self.cut and e.name == HEAD))
        rows = [row | {"bytes": sizes[row["name"]]} for row in result.tensors]
        return replace(result, tensors=rows, bits_per_weight=8 * sum(sizes.values()) / total)

    def check(self, result: ConvertResult, *, overwrite: bool) -> None:
        build.require()
        # The float model and its graph lie beside the artefact while it is made.
        size = 4 * sum(num_weights(t) for t in self.tensors.values())
        safetensors.check_folder(self.out, overwrite=overwrite, needed=result.file_bytes + 2 * size)

    def _accuracy(self, name: str) -> int:
        said = next((r.accuracy for r in self.plan.rules if re.search(r.pattern, name)), None)
        return presets.INT8 if said is None else said

    def _slow(self) -> list[str]:
        """Matrices that onnxruntime widens for every token."""
        kinds = {e.name: parse(e.encoding.name) for e in self.entries.values()}
        return [
            n
            for n, k in kinds.items()
            if k and k.bits not in presets.KERNELS and self._accuracy(n) == presets.EXACT
        ]

    def _matrix(self, entries: Sequence[TensorPlan]) -> Matrix | None:
        kind = parse(entries[0].encoding.name)
        if kind is None:
            return None
        levels = [self._accuracy(e.name) for e in entries]
        return Matrix(kind=kind, parts=entries, accuracy=min(levels))

    def write(self, running: Running) -> WriteResult:
        with tempfile.TemporaryDirectory(
            prefix=f".{self.out.name}-", dir=self.out.absolute().parent
        ) as scratch:
            try:
                graph = self.build(Path(scratch), running)
            except OSError as error:
                raise explain(error, self.out) from error
            return self.write_from(graph, running)

    def build(self, scratch: Path, running: Running) -> Path:
        """The float32 graph, in a folder below `scratch`."""
        graph = scratch / "graph"
        build.build(
            graph,
            scratch,
            config=self.config,
            tensors=floats(self.model, self.tensors, "f32").entries,
            files=self.files,
            threads=running.threads,
            nonfinite=running.nonfinite,
            progress=running.progress,
        )
        shutil.rmtree(scratch / "source", ignore_errors=True)
        return graph

    def write_from(self, graph: Path, running: Running) -> WriteResult:
        """Write the artefact from a graph that is there."""
        started, peak = time.perf_counter(), Peak()
        with replacing(self.out) as made:
            made.mkdir()
            self.prepare(graph).write(
                made,
                threads=running.threads,
                nonfinite=running.nonfinite,
                progress=running.progress,
            )
            for path in self.side_files(graph):
                shutil.copy(path, made / path.name)
        return folder_written(self.out, started, peak)

    def folder_bytes(self, graph: Path) -> int:
        """Bytes of the artefact this makes from a graph, all files counted."""
        return self.prepare(graph).nbytes + sum(p.stat().st_size for p in self.side_files(graph))

    def held(self, graph: Path) -> Model:
        """The model with the matrices that the written artefact holds in the place of its own."""
        prepared = self.prepare(graph)
        found = {
            name: families.gguf_view(self.model, name, prepared.held(self.out, entry))
            for name, entry in self.entries.items()
            if parse(entry.encoding.name)
        }
        return replace(self.model, tensors={**self.model.tensors, **found})

    def side_files(self, graph: Path) -> list[Path]:
        return [p for p in graph.iterdir() if p.name not in (build.GRAPH, build.DATA)]

    def prepare(self, graph: Path) -> quantize.Prepared:
        """The graph with the matrices of the plan, laid out and not written."""
        shared: dict[str, Matrix | None] = {}

        def choose(names: Sequence[str]) -> Matrix | None:
            ours = [self.ours[n] for n in names]
            if self.cut and ours == [EMBEDDING]:
                ours = [HEAD]
            if ours[0] not in shared:
                shared[ours[0]] = self._matrix([self.entries[n] for n in ours])
            return shared[ours[0]]

        embedding: Any = self.entries[EMBEDDING]
        if parse(embedding.encoding.name):
            # Where head and embedding are tied, both are the one matrix.
            embedding = shared[EMBEDDING] = self._matrix([embedding])
        return quantize.prepare(
            graph,
            tensors=self.tensors,
            choose=choose,
            embedding=embedding,
            properties=self._properties(),
        )

    def _properties(self) -> dict[str, str]:
        keys = provenance.keys(
            self.model,
            self.source,
            replace(
                self.resolved, entries=list(self.entries.values()), substitutions=self.substitutions
            ),
            hashes=self.source.hashes(),
            command=self.command,
            statistics=self.statistics.sha256 if self.statistics else None,
        )
        return {
            k: v.value
            for k, v in keys.items()
            if k.startswith("kanna.") and isinstance(v.value, str)
        }

"""Conversion to an ONNX folder with weights of 2, 4 and 8 bits.

The builder's graph, and values of our own choice.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kanna import families
from kanna._util import own_files
from kanna._util.disk import explain
from kanna._util.peak_memory import Peak
from kanna.conversion import onnx_provider
from kanna.conversion.base import (
    ConversionRequest,
    ConvertResult,
    Examination,
    WriteOptions,
    WrittenArtefact,
    described,
    floats,
    folder_written,
)
from kanna.conversion.guidance import read_guidance
from kanna.conversion.nbits_sizes import NBitsSizes, side_files
from kanna.encodings.grouped.nbits import parse
from kanna.formats import safetensors
from kanna.formats.onnx import FORMAT, build, static_shapes
from kanna.formats.stream import WriteResult, replacing
from kanna.model import Model, num_weights
from kanna.plan import onnx as presets
from kanna.sources import Source


class NBitsConversion:
    """A conversion to an ONNX folder whose matrices are MatMulNBits nodes."""

    def __init__(
        self, source: Source, model: Model, out: Path | None, request: ConversionRequest
    ) -> None:
        self.source, self.model = source, model
        self.out = out or Path(f"{source.name}-onnx")
        guidance = read_guidance(
            source,
            model,
            statistics=request.statistics,
            method=request.method,
            device=request.device,
        )
        self.sizes = NBitsSizes(source, model, guidance)
        self.plan = request.as_plan(self.sizes.preset, presets.DEFAULT)
        self.nodes = self.sizes.nodes(self.plan)
        self.sized = self.sizes.sized_nodes(self.nodes)
        self.shape = static_shapes.wanted(request.static, self.sizes.config)
        self.provider = onnx_provider.wanted(request.provider, request.static)
        used = [entry.encoding.name for entry in self.nodes.entries.values()]
        onnx_provider.check_encodings(self.provider, used)
        self.sizes.static = self.shape and str(self.shape)
        self.sizes.provider = self.provider and self.provider.name

    def describe(self) -> ConvertResult:
        """What would be written, but for the graph; the bytes are those of weights and scales."""
        notes = [
            *build.notes(self.model, self.sizes.config),
            "the graph and its tables of angles come on top of these bytes",
        ]
        if slow := self.nodes.slow():
            notes.append(_slow_note(slow))
        command = self.sizes.command(self.plan)
        return described(self.sized, paths=[self.out], command=command, notes=notes)

    def check(self, result: ConvertResult, *, overwrite: bool) -> None:
        """Raise OutputError when there is no room, or something is there."""
        build.require()
        # The float model and its graph lie beside the artefact while it is made.
        size = 4 * sum(num_weights(t) for t in self.sizes.tensors.values())
        safetensors.check_folder(self.out, overwrite=overwrite, needed=result.file_bytes + 2 * size)

    def write(self, options: WriteOptions) -> WriteResult:
        """Build the float graph, and write the artefact from it."""
        with own_files.scratch(self.out.absolute().parent, self.out.name) as scratch:
            examination = options.examination(self.source)
            try:
                graph = self.build(scratch, options)
            except OSError as error:
                raise explain(error, self.out) from error
            return self.write_from(graph, options, examination)

    def build(self, scratch: Path, options: WriteOptions) -> Path:
        """The float32 graph, in a folder below `scratch`."""
        graph = scratch / "graph"
        build.build(
            graph,
            scratch,
            config=self.sizes.config,
            tensors=floats(self.sizes.published, "f32").entries,
            files=self.sizes.files,
            threads=options.threads,
            nonfinite=options.nonfinite,
            progress=options.progress,
        )
        shutil.rmtree(scratch / "source", ignore_errors=True)
        return graph

    def write_from(
        self, graph: Path, options: WriteOptions, examination: Examination | None = None
    ) -> WriteResult:
        """Write the artefact from a graph that is there."""
        notes: list[str] = []
        started, peak = time.perf_counter(), Peak()
        with replacing(self.out) as made:
            made.mkdir()
            self.sizes.prepare(self.plan, self.nodes, graph).write(
                made,
                threads=options.threads,
                nonfinite=options.nonfinite,
                progress=options.progress,
            )
            for path in side_files(graph):
                there = made / path.relative_to(graph)
                there.parent.mkdir(exist_ok=True)
                shutil.copy(path, there)
            if examination is not None:
                notes = examination(WrittenArtefact(format=FORMAT.name, folder=made))
            if self.shape is not None:
                static_shapes.fix(made, self.shape)
            notes += onnx_provider.tell(made, self.provider)
        return replace(folder_written(self.out, started, peak), notes=notes)

    def folder_bytes(self, graph: Path) -> int:
        """Bytes of the artefact this makes from a graph, all files counted."""
        return self.sizes.folder_bytes(self.plan, self.nodes, graph)

    def held(self, graph: Path) -> Model:
        """The model with the matrices that the written artefact holds in the place of its own."""
        prepared = self.sizes.prepare(self.plan, self.nodes, graph)
        held = {
            name: families.gguf_view(self.model, name, prepared.held(self.out, entry))
            for name, entry in self.nodes.entries.items()
            if parse(entry.encoding.name)
        }
        return replace(self.model, tensors={**self.model.tensors, **held})


def _slow_note(slow: Sequence[str]) -> str:
    more = f" and {len(slow) - 1} more" if len(slow) > 1 else ""
    return (
        f"accuracy 0 of {slow[0]}{more}: onnxruntime has no such product with 2 or 8 bits and "
        "widens the matrix for every token, about a hundred times as slow"
    )

"""Conversion to an ONNX folder with the float32 graph of a model, as its own builder makes it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from kanna import encodings, families, provenance
from kanna._util import own_files
from kanna._util.peak_memory import Peak
from kanna.conversion import onnx_provider
from kanna.conversion.base import (
    ConversionRequest,
    ConvertResult,
    SizedPlan,
    WriteOptions,
    WrittenArtefact,
    described,
    floats,
    folder_written,
    get_preset,
    sized_floats,
)
from kanna.conversion.hf_folder import hf_folder, with_dtype
from kanna.errors import UsageError
from kanna.formats import safetensors
from kanna.formats.onnx import FORMAT, build, static_shapes
from kanna.formats.onnx.quantize import EMBEDDING, HEAD
from kanna.formats.stream import WriteResult, replacing
from kanna.model import Model, Tensor, num_weights
from kanna.plan import onnx as presets
from kanna.plan.onnx_derived import DERIVED
from kanna.sources import Source

UNUSED = ("encoding", "plan", "imatrix", "statistics", "method", "split_max_size")
"""Fields of a request that a graph made as a whole has no use for."""


def refuse_unused(request: ConversionRequest, what: str) -> None:
    """UsageError for what `what` has no use for."""
    for name in UNUSED:
        if getattr(request, name) is not None:
            option = name.replace("_", "-")
            raise UsageError(f"--{option} has no use for {what}", expected="none of them")


def sized_whole(model: Model, tensors: Mapping[str, Tensor], preset: str) -> SizedPlan:
    """The weights of a graph that is made as a whole, without the graph and its tables.

    Args:
        model: The source as tensors with roles.
        tensors: Of the model, by Hugging Face name.
        preset: A preset of ONNX whose graph is made as a whole.
    """
    resolved = floats(tensors, "f32")
    if preset not in DERIVED:
        return sized_floats(replace(resolved, name=preset))
    stored = encodings.get(DERIVED[preset].storage or "i8")
    entries = [
        replace(e, encoding=stored) if len(e.tensor.shape) > 1 else e for e in resolved.entries
    ]
    nbytes = {e.name: e.nbytes for e in entries}
    if DERIVED[preset].bits < encodings.get("i8").bits:
        # The head and the embedding, which may be one array, stay in 8 bits.
        few = [e for e in entries if len(e.tensor.shape) > 1 and e.name not in (HEAD, EMBEDDING)]
        nbytes |= {e.name: e.nbytes * DERIVED[preset].bits // 8 for e in few}
    weights = sum(num_weights(e.tensor) for e in entries)
    bits = 8 * sum(nbytes.values()) / max(1, weights)
    resolved = replace(resolved, name=preset, entries=entries, bits=bits, nominal_bits=bits)
    return SizedPlan(resolved=resolved, file_bytes=sum(nbytes.values()), nbytes=nbytes)


class FloatConversion:
    """A conversion to an ONNX folder: graph, external data, genai_config.json, tokenizer files."""

    def __init__(
        self, source: Source, model: Model, out: Path | None, request: ConversionRequest
    ) -> None:
        self.preset = get_preset(presets.PRESETS, request.preset or presets.WHOLE, "onnx").name
        refuse_unused(request, f"onnx:{self.preset}")
        self.source, self.model = source, model
        self.out = out or Path(f"{source.name}-onnx")
        families.require(model, build.REFUSED, "ONNX graph")
        folder = hf_folder(source, model)
        self.tensors, self.files = folder.tensors, folder.files
        build.preflight(folder.config, self.tensors)
        extras = build.extras(model.config, families.end_ids(model))
        self.config = with_dtype(folder.config | extras, "float32")
        self.shape = static_shapes.wanted(request.static, self.config)
        self.provider = onnx_provider.wanted(request.provider, request.static)
        self.command = provenance.command(
            source,
            {
                "format": "onnx",
                "preset": self.preset,
                "include": ",".join(request.include) or None,
                "exclude": ",".join(request.exclude) or None,
                "static": self.shape and str(self.shape),
                "provider": self.provider and self.provider.name,
            },
        )

    @property
    def notes(self) -> list[str]:
        """What the user should know of the artefact."""
        return [
            *build.notes(self.model, self.config),
            "the graph and its tables of angles come on top of these bytes",
        ]

    def describe(self) -> ConvertResult:
        """What would be written, but for the graph; the bytes are those of the weights."""
        sized = sized_whole(self.model, self.tensors, self.preset)
        return described(sized, paths=[self.out], command=self.command, notes=self.notes)

    def check(self, result: ConvertResult, *, overwrite: bool) -> None:
        """Raise OutputError when there is no room, or something is there."""
        build.require()
        # The float model, and the graph that others are derived from, lie beside the artefact.
        models = 3 if self.preset in DERIVED else 2
        whole = 4 * sum(num_weights(t) for t in self.tensors.values())
        safetensors.check_folder(self.out, overwrite=overwrite, needed=models * whole)

    def write(self, options: WriteOptions) -> WriteResult:
        """Have the graph built, and finish the folder."""
        started, peak = time.perf_counter(), Peak()
        examination = options.examination(self.source)
        with (
            replacing(self.out) as made,
            own_files.scratch(self.out.absolute().parent, self.out.name) as scratch,
        ):
            self.build(made, scratch, options)
            self.finish(made, scratch, options)
            notes = examination(WrittenArtefact(format=FORMAT.name, folder=made))
            if self.shape is not None:
                static_shapes.fix(made, self.shape)
                self.fixed(made, scratch, options)
            notes += onnx_provider.tell(made, self.provider)
        return replace(folder_written(self.out, started, peak), notes=notes)

    def build(self, made: Path, scratch: Path, options: WriteOptions) -> None:
        """Have the float32 graph made in the folder `made`."""
        build.build(
            made,
            scratch,
            config=self.config,
            tensors=floats(self.tensors, "f32").entries,
            files=self.files,
            threads=options.threads,
            nonfinite=options.nonfinite,
            progress=options.progress,
        )

    def finish(self, made: Path, scratch: Path, options: WriteOptions) -> None:
        """What is done with the builder's folder `made`; nothing for the float32 graph itself."""

    def fixed(self, made: Path, scratch: Path, options: WriteOptions) -> None:
        """What is done with its graphs of fixed shapes; nothing for float32 itself."""

"""Conversion to an ONNX folder for onnxruntime-genai.

The graph of the model, as its own builder makes it.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from kanna import families, provenance
from kanna._util.peak_memory import Peak
from kanna.conversion.base import ConvertResult, Request, Running, described, floats, folder_written
from kanna.conversion.nbits import ToNBits
from kanna.errors import UsageError
from kanna.formats import safetensors
from kanna.formats.gguf.write import WriteResult
from kanna.formats.onnx import build
from kanna.formats.stream import replacing
from kanna.model import Model
from kanna.plan import onnx as presets
from kanna.plan import onnx_derived
from kanna.sources import Source

PRESETS = {"fp32": "the weights in float32"}


class ToONNX:
    """A conversion to an ONNX folder: graph, external data, genai_config.json, tokenizer files."""

    late_hashes = False
    presets = tuple(PRESETS)

    def __init__(self, source: Source, model: Model, out: Path | None, request: Request) -> None:
        preset = request.preset or "fp32"
        if preset not in self.presets:
            known = [*PRESETS, *presets.PRESETS, *onnx_derived.PRESETS]
            raise UsageError(
                f"no preset {preset!r} for onnx", expected=", ".join(f"onnx:{p}" for p in known)
            )
        given = {
            "encoding": request.encoding,
            "plan": request.plan,
            "imatrix": request.imatrix,
            "statistics": request.statistics,
            "method": request.method,
            "split-max-size": request.split_max_size,
        }
        if unused := [name for name, value in given.items() if value is not None]:
            raise UsageError(f"--{unused[0]} has no use for onnx:{preset}", expected="none of them")
        self.source, self.model, self.preset = source, model, preset
        self.out = out or Path(f"{source.name}-onnx")
        config, tensors, self.files = families.to_hf(model)
        build.preflight(config, tensors)
        self.config = config | build.windows(model.config) | {"torch_dtype": "float32"}
        self.resolved = floats(model, tensors, "f32")
        self.command = provenance.command(source, {"format": "onnx", "preset": preset})

    def describe(self) -> ConvertResult:
        return described(
            self.resolved,
            paths=[self.out],
            file_bytes=sum(e.nbytes for e in self.resolved.entries),
            preset=self.preset,
            command=self.command,
            notes=[
                *build.notes(self.model, self.config),
                "the graph and its tables of angles come on top of these bytes",
            ],
        )

    def check(self, result: ConvertResult, *, overwrite: bool) -> None:
        build.require()
        # The float model lies beside the artefact while the builder reads it.
        safetensors.check_folder(self.out, overwrite=overwrite, needed=2 * result.file_bytes)

    def write(self, running: Running) -> WriteResult:
        started, peak = time.perf_counter(), Peak()
        with (
            replacing(self.out) as made,
            tempfile.TemporaryDirectory(
                prefix=f".{self.out.name}-", dir=self.out.absolute().parent
            ) as scratch,
        ):
            build.build(
                made,
                Path(scratch),
                config=self.config,
                tensors=self.resolved.entries,
                files=self.files,
                threads=running.threads,
                nonfinite=running.nonfinite,
                progress=running.progress,
            )
            self.finish(made, Path(scratch), running)
        return folder_written(self.out, started, peak)

    def finish(self, made: Path, scratch: Path, running: Running) -> None:
        """What is done with the builder's folder `made`; nothing for the float32 graph itself."""


class ToAny:
    """The conversion that a preset, an encoding or a plan asks for."""

    late_hashes = False
    takes = ("preset", "encoding", "plan", "statistics", "method", "include", "exclude")
    extra = "onnx"
    summary = "Conversion to an ONNX folder for onnxruntime-genai"

    def __new__(cls, source: Source, model: Model, out: Path | None, request: Request) -> Any:
        if request.preset in onnx_derived.PRESETS:
            from kanna.conversion.onnx_derived import ToDerived

            return ToDerived(source, model, out, request)
        quantized = (
            request.encoding or request.plan or (request.preset or "int4") in presets.PRESETS
        )
        return (ToNBits if quantized else ToONNX)(source, model, out, request)


WORK = ToAny

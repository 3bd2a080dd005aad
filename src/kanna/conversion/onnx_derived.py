"""Conversion to ONNX folders made from the float32 graph as a whole.

16 bits in storage, int8 in arithmetic.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from kanna import provenance
from kanna.calibration import texts, windows
from kanna.conversion.base import ConvertResult, Request, Running, described
from kanna.conversion.onnx import ToONNX
from kanna.errors import KannaError
from kanna.formats import safetensors
from kanna.formats.onnx import build, fp16_storage, int8
from kanna.model import Model
from kanna.plan.onnx_derived import PRESETS
from kanna.sources import Source

# Tokens of the built-in calibration text that ranges and smoothing are taken from.
TOKENS = 4096


class ToDerived(ToONNX):
    """A conversion to an ONNX folder whose graph is rewritten once the builder has made it."""

    presets = tuple(PRESETS)

    def __init__(self, source: Source, model: Model, out: Path | None, request: Request) -> None:
        super().__init__(source, model, out, request)
        self.request, self.kind = request, PRESETS[self.preset]
        self.command = provenance.command(
            source,
            {
                "format": "onnx",
                "preset": self.preset,
                "include": ",".join(request.include) or None,
                "exclude": ",".join(request.exclude) or None,
            },
        )

    def describe(self) -> ConvertResult:
        matrices = sum(e.nbytes for e in self.resolved.entries if len(e.tensor.shape) > 1)
        others = sum(e.nbytes for e in self.resolved.entries) - matrices
        notes = build.notes(self.model, self.config)
        notes.append("about: the graph, its tables and scales come on top, and what stays float")
        if self.kind.int8:
            notes.append(
                f"ranges and smoothing from {TOKENS} tokens of the built-in calibration text"
            )
        result = described(
            self.resolved,
            paths=[self.out],
            file_bytes=others + matrices * self.kind.bits // 32,
            preset=self.preset,
            command=self.command,
            notes=notes,
        )
        for row in result.tensors:
            if len(row["shape"]) > 1:
                row["encoding"], row["bytes"] = (
                    self.kind.storage or "i8",
                    row["bytes"] * self.kind.bits // 32,
                )
        weights = sum(int(np.prod(r["shape"])) for r in result.tensors)
        bits = 8 * sum(r["bytes"] for r in result.tensors) / max(1, weights)
        return ConvertResult(
            **{f: getattr(result, f) for f in _KEPT}, bits_per_weight=bits, nominal_bits=bits
        )

    def check(self, result: ConvertResult, *, overwrite: bool) -> None:
        build.require()
        # The float model, and its graph, lie beside the artefact meanwhile.
        whole = sum(e.nbytes for e in self.resolved.entries)
        safetensors.check_folder(self.out, overwrite=overwrite, needed=3 * whole)

    def finish(self, made: Path, scratch: Path, running: Running) -> None:
        source = scratch / "float"
        source.mkdir()
        for name in (build.GRAPH, build.DATA):
            (made / name).replace(source / name)
        if self.kind.storage:
            fp16_storage.halve(source, made, self.kind.storage)
            return
        decoder = json.loads((made / build.GENAI).read_text(encoding="utf-8"))["model"]["decoder"]
        documents, _ = texts.documents(None, self.model)
        ids = windows.cut(documents, self.model, tokens=TOKENS).ids.astype(np.int64)
        done = int8.quantize(
            source,
            made,
            scratch,
            ids=ids,
            calibrator=self.kind.calibrator,
            cache=[decoder["num_key_value_heads"], decoder["head_size"]],
            include=self.request.include,
            exclude=self.request.exclude,
            # A range that follows what is read gains nothing by it: measured in docs/onnx.md.
            smoothing=bool(self.kind.calibrator),
            progress=running.progress,
        )
        if not done["products"]:
            raise KannaError(
                "nothing was quantized",
                expected="a product that --include names and --exclude does not",
            )


_KEPT = ("paths", "file_bytes", "preset", "substitutions", "tensors", "command", "notes")

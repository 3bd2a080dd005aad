"""Conversion to ONNX folders made from the float32 graph as a whole.

16 bits in storage, int8 in arithmetic.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kanna._util.atomic import write_text
from kanna.calibration import texts, windows
from kanna.conversion.base import ConversionRequest, WriteOptions
from kanna.conversion.onnx_float import FloatConversion
from kanna.errors import KannaError
from kanna.formats import overflow
from kanna.formats.onnx import activation_codes, build, fp16_storage, int8, qdq
from kanna.formats.stream import WriteResult
from kanna.model import Model
from kanna.plan.onnx_derived import DERIVED
from kanna.sources import Source

# Tokens of the built-in calibration text that ranges and smoothing are taken from.
TOKENS = 4096


class DerivedConversion(FloatConversion):
    """A conversion to an ONNX folder whose graph is rewritten once the builder has made it."""

    def __init__(
        self, source: Source, model: Model, out: Path | None, request: ConversionRequest
    ) -> None:
        super().__init__(source, model, out, request)
        self.request, self.kind = request, DERIVED[self.preset]

    @property
    def notes(self) -> list[str]:
        """What the user should know of the artefact."""
        notes = build.notes(self.model, self.config)
        notes.append("about: the graph, its tables and scales come on top, and what stays float")
        if self.kind.int8:
            notes.append(
                f"ranges, and smoothing of codes of 8 bits, from {TOKENS} tokens of the built-in "
                "calibration text"
            )
        return notes

    def write(self, options: WriteOptions) -> WriteResult:
        """Have the graph built, once every value is known to be held by the preset."""
        if self.kind.storage:
            for tensor in self.tensors.values():
                if len(tensor.shape) > 1:
                    overflow.check_tensor(tensor, self.kind.storage)
        return super().write(options)

    def by_matrix(self, graph: Path) -> dict[str, int] | None:
        """Bits of the matrices of a float graph by initializer; None where they do not differ."""
        return None

    def calibration_ids(self) -> NDArray[np.int64] | None:
        """The built-in calibration text, int64 [windows, tokens]; None: codes need only room."""
        documents, _ = texts.documents(None, self.model)
        return windows.cut(documents, self.model, tokens=TOKENS).ids.astype(np.int64)

    def fixed(self, made: Path, scratch: Path, options: WriteOptions) -> None:
        """Put codes between all nodes of the graphs of fixed shapes, where the preset has them."""
        if self.kind.full:
            ids = self.calibration_ids()
            activation_codes.write(made, scratch, ids, options.progress)

    def finish(self, made: Path, scratch: Path, options: WriteOptions) -> None:
        """Derive the graph of the preset from the builder's."""
        source = scratch / "float"
        source.mkdir()
        for name in (build.GRAPH, build.DATA):
            (made / name).replace(source / name)
        if self.kind.storage:
            fp16_storage.halve(source, made, self.kind.storage)
            return
        decoder = json.loads((made / build.GENAI).read_text(encoding="utf-8"))["model"]["decoder"]
        ids = self.calibration_ids()
        done = int8.quantize(
            source,
            made,
            scratch,
            ids=ids,
            calibrator=self.kind.calibrator,
            bits=self.kind.bits,
            wide=self.kind.wide,
            by_matrix=self.by_matrix(source / build.GRAPH),
            cache=[decoder["num_key_value_heads"], decoder["head_size"]],
            include=self.request.include,
            exclude=self.request.exclude,
            # A range that follows what is read gains nothing by it: measured in docs/onnx.md.
            # Nor do activations of 16 bits: it makes weights harder to round (docs/npu.md).
            smoothing=bool(self.kind.calibrator) and not self.kind.wide,
            progress=options.progress,
        )
        if self.kind.wide:
            described = json.loads((made / build.GENAI).read_text(encoding="utf-8"))
            session = described["model"]["decoder"].setdefault("session_options", {})
            session |= qdq.EXACT_PRODUCTS
            write_text(made / build.GENAI, json.dumps(described, indent=4))
        if not done["products"]:
            raise KannaError(
                "nothing was quantized",
                expected="a product that --include names and --exclude does not",
            )

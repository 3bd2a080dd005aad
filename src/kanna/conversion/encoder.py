"""Conversion of an encoder to an ONNX folder: float, 16 bits in storage, or int8."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from kanna import provenance
from kanna._util import own_files
from kanna._util.peak_memory import Peak
from kanna.calibration import texts
from kanna.conversion.base import (
    ConversionRequest,
    ConvertResult,
    WriteOptions,
    folder_written,
)
from kanna.conversion.onnx_float import refuse_unused
from kanna.formats import safetensors
from kanna.formats.onnx import build, encoder, fp16_storage, int8
from kanna.formats.stream import WriteResult, replacing
from kanna.model import bits_per_weight, num_weights
from kanna.plan.onnx_derived import DERIVED, Derived
from kanna.plan.presets import unknown_preset
from kanna.sources import Source
from kanna.tokenizer import library

_WINDOWS, _TOKENS = 32, 128
_WHOLE = Derived(summary="the weights in float32", bits=32)


class EncoderConversion:
    """A conversion to an ONNX folder with the encoder's tokenizer and pooling beside its graph."""

    def __init__(self, source: Source, out: Path | None, request: ConversionRequest) -> None:
        self.preset = request.preset or "int8"
        known = {"fp32": _WHOLE, **DERIVED}
        if self.preset not in known:
            raise unknown_preset(self.preset, known, "onnx")
        refuse_unused(request, "an encoder")
        self.source, self.request, self.kind = source, request, known[self.preset]
        self.out = out or Path(f"{source.name}-onnx")
        self.command = provenance.command(source, {"format": "onnx", "preset": self.preset})

    def describe(self) -> ConvertResult:
        """What would be written, but for the graph and its tokenizer."""
        rows: list[dict[str, Any]] = [
            {
                "name": t.name,
                "shape": list(t.shape),
                "source": t.dtype,
                "encoding": {32: "f32", 8: "i8"}.get(bits, self.kind.storage),
                "method": "",
                "bytes": num_weights(t) * bits // 8,
            }
            for t in self.source.tensors.values()
            for bits in [self.kind.bits if len(t.shape) > 1 else 32]
        ]
        total = sum(r["bytes"] for r in rows)
        bits = bits_per_weight(total, sum(map(num_weights, self.source.tensors.values())))
        return ConvertResult(
            paths=[self.out],
            file_bytes=total,
            preset=self.preset,
            bits_per_weight=bits,
            nominal_bits=bits,
            substitutions=[],
            tensors=rows,
            command=self.command,
            notes=["about: the graph, the tokenizer and scales come on top, and what stays float"],
        )

    def check(self, result: ConvertResult, *, overwrite: bool) -> None:
        """Raise OutputError when there is no room, or something is there."""
        build.require(encoder.NEEDED)
        whole = 4 * sum(num_weights(t) for t in self.source.tensors.values())
        safetensors.check_folder(self.out, overwrite=overwrite, needed=3 * whole)

    def write(self, options: WriteOptions) -> WriteResult:
        """Export the graph, and write the folder."""
        started, peak = time.perf_counter(), Peak()
        with replacing(self.out) as made:
            made.mkdir()
            with own_files.scratch(self.out.absolute().parent, self.out.name) as scratch:
                self._graph(made, scratch, options)
            for name in encoder.SIDE_FILES:
                if (path := self.source.path / name).is_file():
                    (made / name).parent.mkdir(exist_ok=True)
                    shutil.copyfile(path, made / name)
        return folder_written(self.out, started, peak)

    def _graph(self, made: Path, scratch: Path, options: WriteOptions) -> None:
        if self.kind is _WHOLE:
            encoder.export(self.source.path, made, options.progress)
            return
        encoder.export(self.source.path, scratch, options.progress)
        if self.kind.storage:
            fp16_storage.halve(scratch, made, self.kind.storage)
            return
        int8.quantize(
            scratch,
            made,
            scratch,
            ids=self._ids(),
            calibrator=self.kind.calibrator,
            bits=self.kind.bits,
            wide=self.kind.wide,
            include=self.request.include,
            exclude=self.request.exclude,
            progress=options.progress,
        )

    def _ids(self) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
        """Windows of the built-in plain text, framed as the tokenizer frames a text."""
        from tokenizers import Tokenizer

        with library.refusals("tokenizer.json cannot be read"):
            tokenizer = Tokenizer.from_file(str(self.source.files["tokenizer.json"]))
        tokenizer.no_padding()
        tokenizer.enable_truncation(_TOKENS)
        windows: list[list[int]] = []
        for path in sorted(texts.FOLDER.glob("*.txt")):
            lines = path.read_text(encoding="utf-8").split("\n\n")
            pieces = ["\n".join(lines[i : i + 8]) for i in range(0, len(lines), 8)]
            with library.refusals("tokenizer.json cannot split the calibration text"):
                ids = [tokenizer.encode(p).ids for p in pieces]
            windows += [i for i in ids if len(i) == _TOKENS][: _WINDOWS // 6]
        return np.array(windows[:_WINDOWS], np.int64)

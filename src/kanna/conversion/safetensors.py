"""Conversion to a Hugging Face folder in floating point."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from kanna import families, provenance
from kanna.conversion.base import (
    ConversionRequest,
    Converter,
    ConvertResult,
    WriteOptions,
    WrittenArtefact,
    described,
    floats,
    sized_floats,
)
from kanna.conversion.hf_folder import hf_folder, with_dtype
from kanna.errors import UsageError
from kanna.formats import safetensors
from kanna.formats.base import FLOATS
from kanna.formats.stream import WriteResult
from kanna.model import Model
from kanna.sources import Source


class SafetensorsConversion:
    """A conversion to a Hugging Face folder."""

    def __init__(
        self, source: Source, model: Model, out: Path | None, request: ConversionRequest
    ) -> None:
        encoding = request.encoding
        if encoding is not None and encoding not in FLOATS:
            raise UsageError(
                f"safetensors holds no {encoding}", expected=f"--encoding {', '.join(FLOATS)}"
            )
        self.source, self.model, self.request = source, model, request
        self.out = out or Path(source.name)
        sizes = {"bf16": 0, "f16": 0, "f32": 0}
        for tensor in model.tensors.values():
            if tensor.dtype in sizes and len(tensor.shape) > 1:
                sizes[tensor.dtype] += tensor.nbytes
        # The floating type most of the source has; a quantized source gets float16, which holds its
        # values best.
        self.encoding = encoding or (
            max(sizes, key=lambda n: sizes[n]) if any(sizes.values()) else "f16"
        )
        folder = hf_folder(source, model)
        names = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}
        self.config, self.files = with_dtype(folder.config, names[self.encoding]), folder.files
        self.resolved = floats(folder.tensors, self.encoding)
        self.command = provenance.command(source, {"format": "safetensors", "encoding": encoding})

    def describe(self) -> ConvertResult:
        """What would be written; the bytes are those of the weights."""
        return described(
            sized_floats(self.resolved),
            paths=[self.out],
            command=self.command,
            notes=self.model.notes,
        )

    def check(self, result: ConvertResult, *, overwrite: bool) -> None:
        """Raise OutputError when there is no room, or something is there."""
        safetensors.check_folder(self.out, overwrite=overwrite, needed=result.file_bytes)

    def write(self, options: WriteOptions) -> WriteResult:
        """Write the folder."""
        limit, notes = self.request.split_max_size, list[str]()
        examination = options.examination(self.source)
        written = safetensors.write_folder(
            self.out,
            tensors=self.resolved.entries,
            files={
                "config.json": (json.dumps(self.config, indent=2) + "\n").encode(),
                **self.files,
            },
            threads=options.threads,
            progress=options.progress,
            overwrite=options.overwrite,
            nonfinite=options.nonfinite,
            shard_bytes=limit or safetensors.SHARD_BYTES,
            late=lambda: notes.extend(
                examination(
                    WrittenArtefact(
                        format=safetensors.FORMAT.name, config=self.config, files=self.files
                    )
                )
            ),
        )
        return replace(written, paths=[self.out], notes=[*written.notes, *notes])


def begin(source: Source, out: Path | None, request: ConversionRequest) -> SafetensorsConversion:
    """Plan the conversion of a source."""
    return SafetensorsConversion(source, families.load_model(source), out, request)


CONVERSION = Converter(
    summary="Conversion to a Hugging Face folder in floating point",
    takes=("encoding", "split_max_size"),
    begin=begin,
)

"""An adapter for onnxruntime-genai: a base whose graph takes it, and an `.onnx_adapter` file.

`-o FOLDER` writes both, `-o NAME.onnx_adapter` the file alone, for a folder that is there already.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from kanna._util.peak_memory import Peak
from kanna.adapters.base import FactorTensor, Transposed
from kanna.conversion import onnx as base_conversion
from kanna.conversion.base import (
    Conversion,
    ConversionRequest,
    ConvertResult,
    Examination,
    WriteOptions,
    WrittenArtefact,
    get_preset,
)
from kanna.conversion.hf_folder import hf_folder
from kanna.conversion.lone_adapter import AdapterWriter, PlacedAdapter
from kanna.errors import FormatError, UnsupportedError, UsageError
from kanna.formats import stored_file
from kanna.formats.onnx import build, lora_inputs
from kanna.formats.onnx.files import ADAPTER
from kanna.formats.stream import WriteResult, check_output, replacing
from kanna.model import F32, num_rows
from kanna.plan import TensorPlan
from kanna.plan import onnx as presets
from kanna.plan.onnx_derived import DERIVED
from kanna.sources import Source

FILE = f"adapter{ADAPTER}"
_OF_BASE = ("preset", "encoding", "plan", "statistics", "method")
"""Fields of a request that say how the base is written."""
_PRODUCT = re.compile(r"model\.layers\.\d+\.(self_attn|mlp)\.\w+|lm_head")
"""Modules whose matrices are products of the builder's graph."""


def is_alone(out: Path | None) -> bool:
    """Whether the file is written without its base."""
    return out is not None and out.suffix == ADAPTER


def plan(placed: PlacedAdapter) -> list[TensorPlan]:
    """Both matrices of every change as the graph multiplies by them, the strength in the second."""
    tensors = hf_folder(placed.source, placed.model).tensors
    for part in placed.parts:
        matrix = tensors.get(f"{part.hf_name}.weight")
        if part.low_rank.embedding or matrix is None or not _PRODUCT.fullmatch(part.hf_name):
            raise UnsupportedError(
                f"{placed.adapter.given} has a change of {part.hf_name}",
                expected="changes of attention, feed-forward parts and an own head, as the graph "
                "multiplies by them",
                todo=f"merge it: kanna merge {placed.source.given} {placed.adapter.given} "
                "-o merged/ --format onnx",
            )
    entries: list[TensorPlan] = []
    for part in placed.parts:
        left, right = part.low_rank.tensors(part.hf_name)
        names = lora_inputs.input_names(part.hf_name)
        for name, inner, scale in zip(
            names, (right, left), (1.0, part.low_rank.scale), strict=True
        ):
            tensor = FactorTensor(name, Transposed(inner), scale)
            entries.append(
                TensorPlan(name=name, tensor=tensor, encoding=placed.encoding, method="nearest")
            )
    return entries


def _base(placed: PlacedAdapter, out: Path | None) -> Conversion:
    """The conversion of the base; raises UsageError for a preset without room for adapters."""
    request = placed.request
    preset = request.preset
    if preset is not None:
        get_preset(presets.PRESETS, preset, "onnx")
    if preset in DERIVED:
        able = ", ".join(name for name in presets.PRESETS if name not in DERIVED)
        raise UsageError(
            f"the graph of onnx:{preset} takes no adapter",
            expected=f"one of {able}",
            todo="kanna merge SRC ADAPTER -o OUT --format onnx merges it",
        )
    base_conversion.check(request)
    return base_conversion.begin(placed.source, out, request)


def describe(
    placed: PlacedAdapter, entries: Sequence[TensorPlan], out: Path | None, result: ConvertResult
) -> ConvertResult:
    """What would be written: the adapter, with its base where that is written too."""
    if is_alone(out):
        _refuse_base_options(placed.request)
        return result
    base = _base(placed, out).describe()
    return replace(
        base,
        file_bytes=base.file_bytes + result.file_bytes,
        tensors=[*base.tensors, *result.tensors],
        command=placed.command,
        notes=[
            *base.notes,
            *result.notes,
            f"{FILE} is switched on in onnxruntime-genai by Adapters and set_active_adapter; "
            "without it the folder is the base",
        ],
    )


def _refuse_base_options(request: ConversionRequest) -> None:
    for name in _OF_BASE:
        if getattr(request, name) is not None:
            raise UsageError(
                f"--{name} is of no use with -o NAME{ADAPTER}: no base is written",
                expected="-o FOLDER, which writes the base too",
            )


def check(out: Path, needed: int, overwrite: bool) -> None:
    """Raise OutputError when the file cannot be written; a folder is checked with its base."""
    build.require()
    if is_alone(out):
        check_output([out], overwrite=overwrite, needed=needed)


def write(
    placed: PlacedAdapter, entries: Sequence[TensorPlan], out: Path, options: WriteOptions
) -> WriteResult:
    """Write the file, or the folder with it."""
    values = {entry.name: _values(placed, entry, options) for entry in entries}
    if is_alone(out):
        started, peak = time.perf_counter(), Peak()
        with replacing(out) as made:
            lora_inputs.write(made, values)
        return WriteResult(
            paths=[out],
            file_bytes=out.stat().st_size,
            seconds=time.perf_counter() - started,
            peak_bytes=peak.look(),
        )
    conversion, source = _base(placed, out), placed.source
    conversion.check(conversion.describe(), overwrite=options.overwrite)

    def begin(source: Source) -> Examination:
        """Puts the adapter into the folder before that has its name."""
        examine = options.examination(source)

        def put(written: WrittenArtefact) -> list[str]:
            assert written.folder is not None
            tensors = hf_folder(source, placed.model).tensors
            modules = [part.hf_name for part in placed.parts]
            lora_inputs.add(written.folder, modules, tensors, placed.command)
            lora_inputs.write(written.folder / FILE, values)
            return examine(written)

        return put

    with stored_file.watching([*source.weight_files, *source.files.values()]):
        return conversion.write(replace(options, begin_examination=begin))


def _values(placed: PlacedAdapter, entry: TensorPlan, options: WriteOptions) -> F32:
    x = np.ascontiguousarray(entry.tensor.rows(0, num_rows(entry.tensor)), np.float32)
    if not np.isfinite(x).all():
        if options.nonfinite == "zero":
            return np.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0)
        raise FormatError(
            f"{placed.adapter.given} holds NaN or infinite values of {entry.name}",
            expected="finite values",
            todo="train it again, with a lower learning rate; or --nonfinite zero",
        )
    return x


WRITER = AdapterWriter(
    plan=plan,
    check=check,
    write=write,
    takes=_OF_BASE,
    describe=describe,
    needs_base=lambda out: not is_alone(out),
    suffix=ADAPTER,
)

"""Conversion to an OpenVINO folder for openvino-genai, its graph written without OpenVINO."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kanna import encodings, families, provenance
from kanna._util import own_files
from kanna._util.peak_memory import Peak
from kanna.conversion.base import (
    ConversionRequest,
    Converter,
    ConvertResult,
    SizedPlan,
    WriteOptions,
    WrittenArtefact,
    described,
    folder_written,
    get_preset,
)
from kanna.conversion.carried import check_encoding, check_entries
from kanna.conversion.decoder_shape import decoder_shape
from kanna.conversion.guidance import Guidance, read_guidance
from kanna.conversion.hf_folder import hf_folder
from kanna.conversion.hf_rows import over
from kanna.errors import GateError, KannaError, UnsupportedError, UsageError
from kanna.formats import safetensors
from kanna.formats.openvino import FORMAT, MODEL, WEIGHTS, ir, read_folder, tokenizers
from kanna.formats.openvino.decoder import Decoder
from kanna.formats.openvino.parts import DecoderShape
from kanna.formats.openvino.weights import Weights, WeightsFile
from kanna.formats.stream import WriteResult, fill, replacing
from kanna.model import Model
from kanna.plan import Plan, Resolved, TensorPlan, resolve, roles
from kanna.plan import openvino as presets
from kanna.sources import Source

FAMILIES = (
    "ernie4_5",
    "exaone4",
    "gemma2",
    "gemma3",
    "granite",
    "hunyuan",
    "llama",
    "mistral",
    "olmo2",
    "phi2",
    "phi3",
    "qwen2",
    "qwen3",
    "smollm3",
    "stablelm",
)
"""Families whose graph is here."""
REFUSED = {n: "its graph is not written yet" for n in families.names() if n not in FAMILIES}


def preflight(source: Source) -> Model:
    """The model of a source whose graph is here; raises UnsupportedError for others."""
    model = families.load_decoder(source)
    reason = f"only {', '.join(FAMILIES)} have one"
    families.require(model, dict.fromkeys(REFUSED, reason), "OpenVINO graph")
    decoder_shape(model)
    return model


@dataclass(frozen=True, slots=True, kw_only=True)
class _Laid:
    """A graph with its weights laid out."""

    graph: ir.Graph
    layout: WeightsFile


class OpenVINOSizes:
    """Exact bytes of the graph and the weights of OpenVINO folders of one model."""

    def __init__(self, source: Source, model: Model, guidance: Guidance) -> None:
        self._model, self._guidance = model, guidance
        self.shape = decoder_shape(model)
        folder = hf_folder(source, model)
        self.config: Mapping[str, Any] = folder.config
        self.files, self._tensors = folder.files, folder.tensors
        self._names = families.hf_names(model)
        self.notes: list[str] = []

    def preset(self, name: str) -> Plan:
        """The plan of a preset for this model; raises PlanError for an unknown one."""
        plan = get_preset(presets.PRESETS, name, FORMAT.name).plan(self._model)
        return plan.with_method(self._guidance.method)

    def resolved(self, plan: Plan) -> Resolved:
        """The plan over tensors under the names of Hugging Face; only matrices are encoded."""
        if plan.preset is not None:
            raise UsageError(
                f"the plan names {plan.preset}, a preset of GGUF",
                expected='"encoding": "nbits4g32"',
            )
        resolved = resolve(
            self._model,
            plan=plan.model_copy(update={"encoding": plan.encoding or "f16"}),
            weights=self._guidance.weights,
            second_moments=self._guidance.second_moments,
            method=self._guidance.method,
        )
        self.notes = self._guidance.notes(resolved.entries)
        entries: list[TensorPlan] = []
        for entry in resolved.entries:
            if (name := self._names.get(entry.name)) is None:
                continue
            encoding = entry.encoding
            if not roles.quantizable(entry.tensor) or not FORMAT.carries(encoding):
                fallback = "f16" if roles.quantizable(entry.tensor) else "f32"
                encoding = encodings.get(fallback)
            entry = over(self._model, entry, self._tensors[name])
            entries.append(replace(entry, name=name, encoding=encoding))
        check_entries(FORMAT.name, entries)
        total = sum(e.nbytes for e in entries)
        return replace(
            resolved,
            entries=entries,
            substitutions=[
                replace(s, name=self._names.get(s.name, s.name)) for s in resolved.substitutions
            ],
            bits=8 * total / self._model.num_parameters,
        )

    def laid(self, resolved: Resolved) -> _Laid:
        """The graph of a plan, and its file of weights laid out."""
        entries = {e.name: e for e in resolved.entries}
        weights = Weights(entries)
        shapes = {name: tuple(e.tensor.shape) for name, e in entries.items()}
        decoder = Decoder(self.shape, weights, shapes)
        graph = decoder.build()
        if unused := sorted(set(entries) - decoder.used):
            raise UnsupportedError(
                f"{unused[0]} has no place in the graph",
                expected="the tensors of its family",
                todo="write a GGUF instead: --format gguf",
            )
        return _Laid(graph=graph, layout=weights.lay_out(bytes(graph.small)))

    def xml(self, laid: _Laid, resolved: Resolved) -> bytes:
        """The graph's own file."""
        # kanna.json says the rest.
        about: dict[str, Any] = {"kanna": {"version": provenance.__version__}}
        kinds = {entry.encoding.name for entry in resolved.entries}
        capped = "attention" in self.shape.caps
        about["runtime_options"] = presets.runtime_options(kinds, capped=capped)
        return ir.to_xml(laid.graph, self._model.family, laid.layout.places, about)

    def sized(self, plan: Plan) -> SizedPlan:
        """The plan tensor by tensor, with the bytes of the graph and its weights."""
        resolved = self.resolved(plan)
        laid = self.laid(resolved)
        total = laid.layout.total_bytes + len(self.xml(laid, resolved))
        return SizedPlan(resolved=resolved, file_bytes=total)

    def of(self, plan: Plan) -> int:
        """Bytes of the graph and its weights."""
        return self.sized(plan).file_bytes


class OpenVINOConversion:
    """A conversion to a folder: graph, weights, tokenizer graphs, config and tokenizer files."""

    def __init__(self, source: Source, out: Path | None, request: ConversionRequest) -> None:
        self.source, self.model = source, preflight(source)
        self.out = out or Path(f"{source.name}-openvino")
        self.guidance = read_guidance(
            source,
            self.model,
            imatrix=request.imatrix,
            statistics=request.statistics,
            method=request.method,
            device=request.device,
        )
        self.sizes = OpenVINOSizes(source, self.model, self.guidance)
        if request.encoding is not None:
            check_encoding(FORMAT.name, request.encoding)
        plan = request.as_plan(self.sizes.preset, presets.DEFAULT)
        if request.encoding is not None:
            plan = plan.model_copy(update={"name": request.encoding})
        self.sized = self.sizes.sized(plan)
        self.command = provenance.command(
            source,
            {
                "format": FORMAT.name,
                **(dict([plan.origin]) if plan.origin else {}),
                **self.guidance.options,
            },
        )

    def describe(self) -> ConvertResult:
        """What would be written; the bytes are those of the graph and its weights."""
        notes = [n for n in self.model.notes if "llama.cpp" not in n]
        return described(
            self.sized,
            paths=[self.out],
            command=self.command,
            notes=[*notes, *_window(self.model, self.sizes.shape), *self.sizes.notes],
        )

    def check(self, result: ConvertResult, *, overwrite: bool) -> None:
        """Raise OutputError when there is no room, or something is there."""
        tokenizers.require()
        safetensors.check_folder(self.out, overwrite=overwrite, needed=result.file_bytes)

    def write(self, options: WriteOptions) -> WriteResult:
        """Write the folder, and read its tensors again."""
        started, peak = time.perf_counter(), Peak()
        examination = options.examination(self.source)
        laid = self.sizes.laid(self.sized.resolved)
        notes: list[str] = []
        with (
            replacing(self.out) as made,
            own_files.scratch(self.out.absolute().parent, self.out.name) as scratch,
        ):
            made.mkdir()
            # First what takes a second and may be refused.
            notes += tokenizers.make(made, scratch, self.sizes.files)
            most = fill(
                [laid.layout.file(made / WEIGHTS)],
                threads=options.threads,
                progress=options.progress,
                nonfinite=options.nonfinite,
                stage="write",
            )
            for name, data in self._files(laid).items():
                (made / name).parent.mkdir(exist_ok=True)
                (made / name).write_bytes(data)
            _check_written(made, self.sized)
            notes += examination(
                WrittenArtefact(
                    format=FORMAT.name, config=self.sizes.config, files=self.sizes.files
                )
            )
        written = folder_written(self.out, started, peak)
        return replace(written, peak_bytes=max(written.peak_bytes, most), notes=notes)

    def _files(self, laid: _Laid) -> dict[str, bytes]:
        config = json.dumps(dict(self.sizes.config), indent=2) + "\n"
        return {
            **self.sizes.files,
            "config.json": config.encode(),
            provenance.FILE: self._provenance(),
            MODEL: self.sizes.xml(laid, self.sized.resolved),
        }

    def _provenance(self) -> bytes:
        resolved = self.sized.resolved
        return self.guidance.provenance_file(self.model, self.source, resolved, self.command)


def _window(model: Model, shape: DecoderShape) -> list[str]:
    """A note where the model has a window and the graph has none."""
    if shape.windows:
        return []
    window = model.whole("{arch}.attention.sliding_window", 0)
    window = window or int(model.config.get("sliding_window") or 0)
    used = model.config.get("use_sliding_window", True)
    if not window or not used or window >= model.whole("{arch}.context_length", 0):
        return []
    return [
        f"the model attends to the last {window} tokens; the graph attends to all: results are the "
        f"same up to {window} tokens of context"
    ]


def _check_written(folder: Path, sized: SizedPlan) -> None:
    """Read the artefact again: every tensor with its encoding and shape."""
    try:
        stored = read_folder(folder).tensors
    except (KannaError, OSError) as error:
        raise GateError(
            f"{folder.name} cannot be read again: {error}", todo="check the disk"
        ) from error
    for entry in sized.entries:
        there = stored.get(entry.name)
        wanted = (entry.encoding.name, tuple(entry.tensor.shape))
        if there is None or (there.dtype, tuple(there.shape)) != wanted:
            raise GateError(
                f"{folder.name} does not hold {entry.name} as it was written", todo="check the disk"
            )


CONVERSION = Converter(
    summary="Conversion to an OpenVINO folder for openvino-genai",
    takes=("preset", "encoding", "plan", "imatrix", "statistics", "method", "device"),
    begin=OpenVINOConversion,
    sizes=OpenVINOSizes,
    extra="openvino",
    modules=tokenizers.NEEDED,
    preflight=preflight,
)

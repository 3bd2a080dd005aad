"""Conversion to a folder for mlx-lm, without mlx."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kanna import encodings, families, provenance
from kanna.conversion.base import (
    MATRICES,
    ConversionRequest,
    Converter,
    ConvertResult,
    SizedPlan,
    WriteOptions,
    WrittenArtefact,
    described,
)
from kanna.conversion.guidance import Guidance, read_guidance
from kanna.conversion.hf_folder import hf_folder, with_dtype
from kanna.conversion.hf_rows import over
from kanna.conversion.mlx_halves import joined, whole_name
from kanna.conversion.mlx_parts import apart, zeros
from kanna.encodings import Encoding
from kanna.encodings.grouped.affine import NUMBERS
from kanna.errors import GateError, KannaError, PlanError, UsageError
from kanna.formats import mlx, safetensors
from kanna.formats.stream import WriteResult
from kanna.model import Model, Tensor, bits_per_weight
from kanna.plan import Plan, Resolved, TensorPlan, resolve
from kanna.plan import mlx as presets
from kanna.plan.presets import unknown_preset
from kanna.sources import Source

_TORCH = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}


class MLXSizes:
    """Exact bytes of the weight files of MLX folders of one model.

    Names, tensors and side files in the order of Hugging Face are looked up once.
    """

    def __init__(
        self,
        source: Source,
        model: Model,
        guidance: Guidance,
        *,
        float_type: str | None = None,
        shard_bytes: int | None = None,
    ) -> None:
        """Look at a model.

        Args:
            source: What would be converted.
            model: The source as tensors with roles.
            guidance: What guides the choice of values.
            float_type: Of scales and of what is not quantized, where a plan names none; None: the
                model's.
            shard_bytes: Of one weight file at most; None: as mlx-lm splits them.
        """
        self._model, self._guidance, self._shard_bytes = model, guidance, shard_bytes
        self._float_type = float_type or presets.float_type(model)
        self.notes: list[str] = []
        self._names = families.hf_names(model)
        self._layout = mlx.layout.of(families.hf_config(model))
        folder = hf_folder(source, model, stacked=True, folded=self._layout.folded)
        self._require(folder.config)
        self.config: Mapping[str, Any] = self._layout.config(folder.config)
        self._tensors = folder.tensors
        self._unread = {
            own: shape
            for name, shape in self._layout.unread(folder.config).items()
            if name not in folder.tensors and (own := self._layout.name(name)) is not None
        }
        self.files = folder.files

    def _require(self, config: Mapping[str, Any]) -> None:
        """Raise UnsupportedError where mlx-lm computes something else of a config."""
        if reason := self._layout.refuses(config):
            name, _ = families.family_of_model(self._model)
            families.require(self._model, {name: reason}, "MLX folder")

    def preset(self, name: str) -> Plan:
        """The plan of a preset for this model; raises PlanError for an unknown one."""
        if name not in presets.PRESETS:
            raise unknown_preset(name, presets.PRESETS, "mlx")
        plan = presets.PRESETS[name].plan(self._model, float_type=self._float_type)
        return plan.with_method(self._guidance.method)

    def float_type(self, plan: Plan) -> str:
        """The type of scales and of what is not quantized."""
        return plan.encoding if plan.encoding in NUMBERS else self._float_type

    def resolved(self, plan: Plan) -> Resolved:
        """The plan over tensors under the names of Hugging Face.

        What is not quantized is in the floating type.
        """
        number = self.float_type(plan)
        resolved = resolve(
            self._model,
            plan=_of_mlx(plan, number),
            weights=self._guidance.weights,
            second_moments=self._guidance.second_moments,
            method=self._guidance.method,
        )
        self.notes = self._guidance.notes(resolved.entries)
        entries: list[TensorPlan] = []
        for entry in resolved.entries:
            theirs = self._names.get(entry.name)
            name = theirs and self._layout.name(theirs)
            if theirs and name:
                encoding = entry.encoding
                if not encoding.settings:
                    wide = name.endswith(self._layout.wide or ("\0",))
                    encoding = encodings.get("f32" if wide else number)
                entry = over(self._model, entry, self._tensors[theirs])
                tensor = self._layout.values(theirs, entry.tensor)
                entries.append(replace(entry, name=name, tensor=tensor, encoding=encoding))
        entries = apart(joined(entries, self._layout.halves), self._layout.apart)
        entries += zeros(self._unread, encodings.get(number))
        wanted = ", ".join(sorted({s.wanted for s in resolved.substitutions}))
        if resolved.entries and wanted and not any(e.encoding.settings for e in entries):
            raise PlanError(
                f"no matrix of this model can be held in {wanted}",
                expected="rows that are a multiple of the group",
                todo="write floats: --encoding bf16",
            )
        total = sum(e.nbytes for e in entries)
        return replace(
            resolved,
            entries=entries,
            substitutions=[replace(s, name=self._own_name(s.name)) for s in resolved.substitutions],
            bits=bits_per_weight(total, self._model.num_parameters),
        )

    def _own_name(self, name: str) -> str:
        """mlx-lm's name of a tensor of a GGUF's name."""
        own = self._layout.name(self._names.get(name, name)) or name
        return whole_name(own, self._layout.halves)

    def sized(self, plan: Plan) -> SizedPlan:
        """The plan tensor by tensor, with the bytes of the weight files."""
        resolved = self.resolved(plan)
        file_bytes = mlx.weight_bytes(resolved.entries, self._shard_bytes)
        return SizedPlan(resolved=resolved, file_bytes=file_bytes)

    def of(self, plan: Plan) -> int:
        """Bytes of the weight files."""
        return self.sized(plan).file_bytes


def _of_mlx(plan: Plan, number: str) -> Plan:
    """The plan in encodings of MLX.

    Raises:
        PlanError: It names a preset of GGUF.
        UsageError: MLX has no such encoding.
    """
    if plan.preset is not None:
        raise PlanError(
            f"the plan names {plan.preset}, a preset of GGUF",
            expected='"encoding": "affine4g64"',
        )
    rules = [r.model_copy(update={"encoding": _typed(r.encoding, number)}) for r in plan.rules]
    base = _typed(plan.encoding, number) if plan.encoding else number
    for name in {base, *(r.encoding for r in rules)}:
        encoding = encodings.get(name)
        if not mlx.FORMAT.carries(encoding):
            raise UsageError(
                f"MLX has no {encoding.label}",
                expected="affine4g64 and the like, mxfp4g32, mxfp8g32, nvfp4g16, bf16",
                todo="write a GGUF instead: --format gguf"
                if encoding.ggml_type is not None
                else "",
            )
    return plan.model_copy(update={"encoding": base, "rules": rules})


def _typed(name: str, number: str) -> str:
    """`affine4g64` of a user means the model's own type; with a type at the end, that one."""
    encoding = encodings.get(name)
    if encoding.settings and "_" not in name and number != "bf16":
        return f"{encoding.name}_{number}"
    return encoding.name


class MLXConversion:
    """A conversion to an MLX folder: packed weights, config.json, tokenizer files."""

    def __init__(
        self,
        source: Source,
        model: Model,
        out: Path | None,
        request: ConversionRequest,
        float_type: str | None = None,
    ) -> None:
        """Plan the conversion; `float_type` as for `MLXSizes`."""
        self.source, self.model, self.request = source, model, request
        self.out = out or Path(f"{source.name}-mlx")
        self.guidance = read_guidance(
            source,
            model,
            imatrix=request.imatrix,
            statistics=request.statistics,
            method=request.method,
            device=request.device,
        )
        self.sizes = MLXSizes(
            source,
            model,
            self.guidance,
            float_type=float_type,
            shard_bytes=request.split_max_size,
        )
        plan = request.as_plan(self.sizes.preset, presets.DEFAULT)
        if request.encoding is not None:
            plan = plan.model_copy(update={"name": request.encoding})
        self.sized = self.sizes.sized(plan)
        self.number = self.sizes.float_type(plan)
        self.command = provenance.command(
            source,
            {
                "format": "mlx",
                **(dict([plan.origin]) if plan.origin else {}),
                **self.guidance.options,
            },
        )

    def carry(self, folder: Path) -> None:
        """Take over the codes of `folder`, made by a plan of the same encodings and methods."""
        there = _stored(folder)
        entries = [
            replace(e, tensor=there[e.name])
            if e.encoding.settings and there[e.name].dtype == e.encoding.name
            else e
            for e in self.sized.entries
        ]
        resolved = replace(self.sized.resolved, entries=entries)
        self.sized = replace(self.sized, resolved=resolved)

    def describe(self) -> ConvertResult:
        """What would be written; the bytes are those of the weight files."""
        notes = [*self.model.notes, *self.sizes.notes]
        return described(self.sized, paths=[self.out], command=self.command, notes=notes)

    def check(self, result: ConvertResult, *, overwrite: bool) -> None:
        """Raise OutputError when there is no room, or something is there."""
        safetensors.check_folder(self.out, overwrite=overwrite, needed=result.file_bytes)

    def write(self, options: WriteOptions) -> WriteResult:
        """Write the folder, and read its tensors again."""
        files = {**self.sizes.files, provenance.FILE: self._provenance()}
        config = with_dtype(self.sizes.config, _TORCH[self.number])
        notes: list[str] = []
        examination = options.examination(self.source)
        written = mlx.write_folder(
            self.out,
            tensors=self.sized.entries,
            config=config,
            files=files,
            threads=options.threads,
            progress=options.progress,
            shard_bytes=self.request.split_max_size,
            overwrite=options.overwrite,
            nonfinite=options.nonfinite,
            late=lambda: notes.extend(
                examination(
                    WrittenArtefact(format=mlx.FORMAT.name, config=config, files=self.sizes.files)
                )
            ),
        )
        _check_written(self.out, self.sized)
        return replace(written, paths=[self.out], notes=[*written.notes, *notes])

    def _provenance(self) -> bytes:
        resolved = self.sized.resolved
        return self.guidance.provenance_file(self.model, self.source, resolved, self.command)


def _stored(folder: Path) -> Mapping[str, Tensor]:
    """The tensors of a folder that was written, packed matrices as one."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    stored = safetensors.read_folder(folder)
    return mlx.unpacked(stored, config) if mlx.is_mlx(config) else stored


def _check_written(folder: Path, sized: SizedPlan) -> None:
    """Read the artefact again: every tensor with its encoding and shape."""
    try:
        stored = _stored(folder)
        wrong = [
            e.name
            for e in sized.entries
            if e.name not in stored
            or not _alike(encodings.get(stored[e.name].dtype), e.encoding)
            or tuple(stored[e.name].shape) != tuple(e.tensor.shape)
        ]
    except (KannaError, ValueError) as error:
        raise GateError(
            f"{folder.name} cannot be read again: {error}", todo="check the disk"
        ) from error
    if wrong:
        raise GateError(
            f"{folder.name} does not hold {wrong[0]} as it was written", todo="check the disk"
        )


def _alike(stored: Encoding, wanted: Encoding) -> bool:
    """Whether both have the same form in a file."""
    if wanted.planes:
        return (stored.settings, stored.planes) == (wanted.settings, wanted.planes)
    return stored.name == wanted.name


def begin(source: Source, out: Path | None, request: ConversionRequest) -> MLXConversion:
    """Plan the conversion of a source."""
    return MLXConversion(source, families.load_decoder(source), out, request)


CONVERSION = Converter(
    summary="Conversion to a folder for mlx-lm, without mlx",
    takes=MATRICES,
    begin=begin,
    sizes=MLXSizes,
)

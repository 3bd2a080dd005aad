"""Conversion to a folder for mlx-lm, without mlx."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kanna import encodings, families, plan, provenance
from kanna.conversion.base import MATRICES, ConvertResult, Request, Running, described
from kanna.conversion.guidance import informed
from kanna.conversion.hf_rows import over
from kanna.encodings import Encoding
from kanna.encodings.grouped.affine import NUMBERS
from kanna.errors import GateError, KannaError, PlanError, UsageError
from kanna.formats import mlx, safetensors
from kanna.formats.gguf.write import WriteResult
from kanna.model import Model, Tensor
from kanna.plan import Plan, Resolved, TensorPlan
from kanna.plan import mlx as presets
from kanna.sources import Source

DEFAULT_PRESET = "q4"
SIDE_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)
_TORCH = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}


class ToMLX:
    """A conversion to an MLX folder: packed weights, config.json, tokenizer files."""

    late_hashes = False
    takes = MATRICES
    extra = ""
    summary = "Conversion to a folder for mlx-lm, without mlx"

    def __init__(
        self,
        source: Source,
        model: Model,
        out: Path | None,
        request: Request,
        number: str | None = None,
    ) -> None:
        """number: type of scales and of what is left alone, where the request names none.

        None: the model's.
        """
        self.source, self.model, self.request = source, model, request
        self.out = out or Path(f"{source.name}-mlx")
        self.wanted = (
            plan.load(request.plan) if isinstance(request.plan, (str, Path)) else request.plan
        )
        said = (request.encoding, request.preset, self.wanted.encoding if self.wanted else None)
        self.number = next((n for n in said if n in NUMBERS), number or number_of(model))
        given = informed(source, model, request)
        self.imatrix, self.statistics, method = given.imatrix, given.statistics, given.method
        known = self.imatrix or self.statistics
        self.resolved = self._named(
            plan.resolve(
                model,
                plan=self._plan(method),
                weights=known.weights if known else None,
                second_moments=self.statistics.second_moment if self.statistics else None,
                method=method,
            )
        )
        self.command = provenance.command(
            source,
            {
                "format": "mlx",
                "preset": request.preset
                or (None if request.encoding or request.plan else DEFAULT_PRESET),
                "encoding": request.encoding,
                "plan": Path(request.plan) if isinstance(request.plan, (str, Path)) else None,
                "imatrix": self.imatrix.path if self.imatrix else None,
                "statistics": self.statistics.folder if self.statistics else None,
                "method": given.unusual,
            },
        )

    def _plan(self, method: str) -> Plan:
        encoding = self.request.encoding
        if self.wanted is not None:
            found = self._own(self.wanted)
            if found.preset is not None:
                raise PlanError(
                    f"the plan names {found.preset}, a preset of GGUF",
                    expected='"encoding": "affine4g64"',
                )
        elif encoding is not None:
            found = self._own(Plan(name=encoding, encoding=encodings.get(encoding).name))
        else:
            found = self._own(
                presets.preset(self.request.preset or DEFAULT_PRESET, self.model, self.number)
            )
            # A rule of a preset says which width, and leaves to the user how values are chosen.
            rules = [
                r if r.method == "nearest" else r.model_copy(update={"method": method})
                for r in found.rules
            ]
            found = found.model_copy(update={"rules": rules})
        found = found.model_copy(update={"encoding": found.encoding or self.number})
        for name in {found.encoding or self.number, *(r.encoding for r in found.rules)}:
            self._check(encodings.get(name))
        return found

    def _own(self, given: Plan) -> Plan:
        rules = [r.model_copy(update={"encoding": self._encoding(r.encoding)}) for r in given.rules]
        default = self._encoding(given.encoding) if given.encoding else None
        return given.model_copy(update={"encoding": default, "rules": rules})

    def _encoding(self, name: str) -> str:
        """`affine4g64` of a user means the model's own type; with a type at the end, that one."""
        encoding = encodings.get(name)
        if encoding.settings and "_" not in name and self.number != "bf16":
            return f"{encoding.name}_{self.number}"
        return encoding.name

    def _check(self, encoding: Encoding) -> None:
        if not encoding.settings and encoding.name not in NUMBERS:
            raise UsageError(
                f"MLX has no {encoding.label}",
                expected="affine4g64 and the like, mxfp4g32, mxfp8g32, nvfp4g16, bf16",
                todo="write a GGUF instead: --format gguf"
                if encoding.ggml_type is not None
                else "",
            )

    def _named(self, resolved: Resolved) -> Resolved:
        """The plan over tensors under the names of Hugging Face, what is not quantized in the type of the model."""
        theirs = families.hf_names(self.model)
        tensors: Mapping[str, Tensor] = self.source.tensors
        if self.source.kind == "hf" and all(name in tensors for name in theirs.values()):
            # mlx-lm reads the spelling of transformers 4, and takes its own defaults where it finds
            # another.
            older = families.hf_config(self.model)
            own = {k: v for k, v in self.source.config.items() if v is not None or k not in older}
            self.config: Mapping[str, Any] = older | own
            self.files = {
                n: p.read_bytes() for n, p in self.source.files.items() if n in SIDE_FILES
            }
        else:
            self.config, tensors, self.files = families.to_hf(self.model)
        named: list[TensorPlan] = []
        for entry in resolved.entries:
            name = theirs.get(entry.name)
            if name is not None:
                encoding = entry.encoding if entry.encoding.settings else encodings.get(self.number)
                named.append(
                    replace(over(self.model, entry, tensors[name]), name=name, encoding=encoding)
                )
        if (
            resolved.entries
            and not any(e.encoding.settings for e in named)
            and self._wanted(resolved)
        ):
            raise PlanError(
                f"no matrix of this model can be held in {self._wanted(resolved)}",
                expected="rows that are a multiple of the group",
                todo="write floats: --encoding bf16",
            )
        substitutions = [
            replace(s, name=theirs.get(s.name, s.name)) for s in resolved.substitutions
        ]
        total = sum(e.nbytes for e in named)
        return replace(
            resolved,
            entries=named,
            substitutions=substitutions,
            bits=8 * total / self.model.num_parameters,
        )

    def _wanted(self, resolved: Resolved) -> str:
        return ", ".join(sorted({s.wanted for s in resolved.substitutions}))

    def carry(self, folder: Path) -> None:
        """Take the codes that `folder`, made by a plan of the same encodings and methods, holds already."""
        there = _stored(folder)
        entries = [
            replace(e, tensor=there[e.name])
            if e.encoding.settings and there[e.name].dtype == e.encoding.name
            else e
            for e in self.resolved.entries
        ]
        self.resolved = replace(self.resolved, entries=entries)

    def describe(self) -> ConvertResult:
        return described(
            self.resolved,
            paths=[self.out],
            file_bytes=mlx.weight_bytes(self.resolved.entries, self.request.split_max_size),
            preset=self.resolved.name,
            command=self.command,
            notes=self.model.notes,
        )

    def check(self, result: ConvertResult, *, overwrite: bool) -> None:
        safetensors.check_folder(self.out, overwrite=overwrite, needed=result.file_bytes)

    def write(self, running: Running) -> WriteResult:
        files = {**self.files, provenance.FILE: self._provenance()}
        written = mlx.write_folder(
            self.out,
            tensors=self.resolved.entries,
            config={**self.config, _dtype_key(self.config): _TORCH[self.number]},
            files=files,
            threads=running.threads,
            progress=running.progress,
            shard_bytes=self.request.split_max_size,
            overwrite=running.overwrite,
            nonfinite=running.nonfinite,
        )
        _check_written(self.out, self.resolved)
        return replace(written, paths=[self.out])

    def _provenance(self) -> bytes:
        keys = provenance.keys(
            self.model,
            self.source,
            self.resolved,
            hashes=self.source.hashes(),
            command=self.command,
            imatrix=self.imatrix,
            statistics=self.statistics.sha256 if self.statistics else None,
        )
        found = {k: v.value for k, v in keys.items() if k.startswith("kanna.")}
        return (json.dumps(found, indent=2) + "\n").encode()


def _dtype_key(config: Mapping[str, Any]) -> str:
    return "dtype" if "dtype" in config else "torch_dtype"


def number_of(model: Model) -> str:
    """The floating type most of the source has.

    A source without float matrices gets that of its scales, or float16.
    """
    sizes: dict[str, int] = {}
    scales: dict[str, int] = {}
    for tensor in model.tensors.values():
        if len(tensor.shape) > 1:
            encoding = encodings.get(tensor.dtype)
            where, name = (
                (scales, encoding.planes[1].dtype) if encoding.planes else (sizes, encoding.name)
            )
            if name in NUMBERS:  # the scales of a float mode are bytes, and say nothing
                where[name] = where.get(name, 0) + tensor.nbytes
    found = sizes or scales
    return max(found, key=lambda n: found[n]) if found else "f16"


def _stored(folder: Path) -> Mapping[str, Tensor]:
    """The tensors of a folder that was written, packed matrices as one."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    stored = safetensors.read_folder(folder)
    return mlx.unpacked(stored, config) if mlx.is_mlx(config) else stored


def _check_written(folder: Path, resolved: Resolved) -> None:
    """Read the artefact again: every tensor with its encoding and shape."""
    try:
        found = _stored(folder)
        wrong = [
            e.name
            for e in resolved.entries
            if e.name not in found
            or not _alike(encodings.get(found[e.name].dtype), e.encoding)
            or tuple(found[e.name].shape) != tuple(e.tensor.shape)
        ]
    except (KannaError, ValueError) as error:
        raise GateError(
            f"{folder.name} cannot be read again: {error}", todo="check the disk"
        ) from error
    if wrong:
        raise GateError(
            f"{folder.name} does not hold {wrong[0]} as it was written", todo="check the disk"
        )


def _alike(found: Encoding, wanted: Encoding) -> bool:
    """Whether both have the same form in a file."""
    if wanted.planes:
        return (found.settings, found.planes) == (wanted.settings, wanted.planes)
    return found.name == wanted.name


WORK = ToMLX

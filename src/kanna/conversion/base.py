"""What a conversion to one format is, what it is asked, and what it returns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from kanna import encodings
from kanna._util.disk import folder_size
from kanna._util.peak_memory import Peak
from kanna._util.progress import Progress, Silent
from kanna._util.results import Result, ResultTable
from kanna._util.units import format_size
from kanna.checks import VerifyResult
from kanna.conversion.guidance import Guidance
from kanna.families import load_model
from kanna.formats.stream import WriteResult
from kanna.hardware.cpu import default_threads
from kanna.model import MetaValue, Model, Tensor
from kanna.plan import Plan, Resolved, Substitution, TensorPlan, load
from kanna.plan.presets import Preset, unknown_preset
from kanna.sources import Source


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ConvertResult(Result):
    """What was written, or with `dry_run` what would be.

    Attributes:
        bits_per_weight: Tensors as written.
        nominal_bits: If no tensor had been substituted.
        peak_bytes: Most memory of our own while writing, without pages of the mapped source.
        tensors: Name, shape, source and target encoding, method and bytes of each.
        advice: What speaks against using the file, also among the notes; None: nothing.
    """

    paths: list[Path]
    file_bytes: int
    preset: str
    bits_per_weight: float
    nominal_bits: float
    substitutions: list[Substitution]
    tensors: list[dict[str, Any]]
    command: str
    notes: list[str] = field(default_factory=list[str])
    seconds: float = 0.0
    peak_bytes: int = 0
    verify: VerifyResult | None = None
    advice: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the proof succeeded, where one was asked for."""
        return self.verify is None or self.verify.ok

    def headline(self) -> str:
        """What was written."""
        return (
            f"{self.preset}, {format_size(self.file_bytes)}, {self.bits_per_weight:.2f} bits per "
            f"weight{f', {self.paths[0]}' if self.paths else ''}"
        )

    def facts(self) -> list[tuple[str, object]]:
        """Size, time, and what speaks against it."""
        return [
            ("File", ", ".join(map(str, self.paths))),
            ("Size", format_size(self.file_bytes)),
            ("Bits per weight", f"{self.bits_per_weight:.2f}"),
            ("Seconds", f"{self.seconds:.1f}" if self.seconds else ""),
            ("Advice", self.advice),
            ("Command", self.command),
        ]

    def tables(self) -> list[ResultTable]:
        """What was substituted, and the checks of a proof."""
        rows = [(s.name, s.wanted, s.got, s.reason) for s in self.substitutions]
        columns = ("tensor", "wanted", "got", "why")
        proof = self.verify.tables() if self.verify is not None else []
        return [*([ResultTable(columns=columns, rows=rows)] if rows else []), *proof]

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return {
            "paths": [str(p) for p in self.paths],
            "file_bytes": self.file_bytes,
            "preset": self.preset,
            "bits_per_weight": self.bits_per_weight,
            "nominal_bits": self.nominal_bits,
            "substitutions": [
                {"name": s.name, "wanted": s.wanted, "got": s.got, "reason": s.reason}
                for s in self.substitutions
            ],
            "tensors": self.tensors,
            "command": self.command,
            "notes": self.notes,
            "seconds": self.seconds,
            "peak_bytes": self.peak_bytes,
            "advice": self.advice,
            "verify": self.verify.to_dict() if self.verify is not None else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionRequest:
    """What the user asks for, as `convert` takes it; a format refuses what it has no use for.

    Attributes:
        method: How values are chosen; None: the format's own choice.
        device: Where `gptq` runs; None: on an accelerator when there is one.
        include, exclude: Patterns of the names of products that an int8 graph quantizes, or leaves
            float.
        static: CHUNKxCONTEXT of graphs of fixed shapes; None: one graph for every length.
        provider: The execution provider that a folder is for; None: onnxruntime's CPU.
    """

    preset: str | None = None
    encoding: str | None = None
    plan: str | Path | Plan | None = None
    imatrix: str | Path | None = None
    statistics: str | Path | None = None
    method: str | None = None
    device: str | None = None
    split_max_size: int | None = None
    include: Sequence[str] = field(
        default=(), metadata={"purpose": "the products of an int8 graph"}
    )
    exclude: Sequence[str] = field(
        default=(), metadata={"purpose": "the products of an int8 graph"}
    )
    static: str | None = field(default=None, metadata={"purpose": "ONNX graphs of fixed shapes"})
    provider: str | None = field(default=None, metadata={"purpose": "onnxruntime's ONNX folders"})

    def as_plan(self, preset: Callable[[str], Plan], default: str) -> Plan:
        """The plan that is asked for, which remembers the words of the user.

        Args:
            preset: Makes the plan of a preset by its name.
            default: The preset where the request names nothing.
        """
        if self.plan is not None:
            return load(self.plan) if isinstance(self.plan, (str, Path)) else self.plan
        if self.encoding is not None:
            return Plan.of_encoding(self.encoding)
        plan = preset(self.preset or default)
        plan.origin = ("preset", self.preset or default)
        return plan


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenArtefact:
    """An artefact that is complete but for its name, as its format holds it.

    Attributes:
        format: Name of the format.
        metadata: Keys of a file.
        tensors: Weights by their names in the file, as they were before encoding.
        config: config.json of a folder.
        files: Side files of a folder by name, where it does not hold them yet.
        folder: The folder, under a passing name.
    """

    format: str
    metadata: Mapping[str, MetaValue] = field(default_factory=dict[str, MetaValue])
    tensors: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    files: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    folder: Path | None = None


Examination = Callable[[WrittenArtefact], list[str]]
"""Notes on an artefact before it has its name; raises KannaError to refuse it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOptions:
    """How an artefact is written.

    Attributes:
        nonfinite: What becomes of NaN and infinity: `refuse` or `zero`.
        progress: Where the work is reported.
        examine: Looks at the metadata of a file before it is written, and returns notes; it raises
            to refuse. None: nothing is looked at.
        approve: Looks at what is planned, before anything is written; it raises to refuse it.
        begin_examination: Called when the writing begins, with the source; what it gives is called
            when everything is written but its name. None: nothing is looked at.
    """

    threads: int = field(default_factory=default_threads)
    overwrite: bool = False
    nonfinite: str = "refuse"
    progress: Progress = field(default_factory=Silent)
    examine: Callable[[Source, Mapping[str, MetaValue]], list[str]] | None = None
    begin_examination: Callable[[Source], Examination] | None = None
    approve: Callable[[ConvertResult], ConvertResult] | None = None

    def examination(self, source: Source) -> Examination:
        """The examination of what is made of a source, begun now, beside the writing."""
        return self.begin_examination(source) if self.begin_examination else lambda _: []


MATRICES = (
    "preset",
    "encoding",
    "plan",
    "imatrix",
    "statistics",
    "method",
    "device",
    "split_max_size",
)
"""Fields that say how matrices are stored in one file or folder of weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SizedPlan:
    """A plan over one model: what each tensor becomes, and the bytes of the artefact.

    Attributes:
        resolved: One entry per tensor of the artefact, under its names there.
        file_bytes: Of the file, or of the weight files of a folder.
        nbytes: Of each entry by its name; None: what its encoding takes.
    """

    resolved: Resolved
    file_bytes: int
    nbytes: Mapping[str, int] | None = None

    @property
    def entries(self) -> Sequence[TensorPlan]:
        """What becomes of each tensor."""
        return self.resolved.entries

    def bytes_of(self, entry: TensorPlan) -> int:
        """Bytes of one entry."""
        return entry.nbytes if self.nbytes is None else self.nbytes[entry.name]

    @property
    def weight_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(self.bytes_of(entry) for entry in self.entries)

    @property
    def tensors(self) -> list[dict[str, Any]]:
        """What a result says of each tensor."""
        return [
            {
                "name": e.name,
                "shape": list(e.tensor.shape),
                "source": e.tensor.dtype,
                "encoding": e.encoding.name,
                "method": e.method if e.encoding.block > 1 else "",
                "bytes": self.bytes_of(e),
            }
            for e in self.entries
        ]


class Sizes(Protocol):
    """Bytes of the artefacts that plans of one model would give, none of them made.

    What does not depend on the plan is computed once, when the object is made, and used for every
    plan after; `convert --dry-run`, `fit` and searches ask the same object, and what is written has
    these very bytes. Made by `Converter.sizes(source, model, guidance)`; the same plan, model and
    guidance give the same answer.
    """

    def preset(self, name: str) -> Plan:
        """The plan that a preset of the format is for this model; raises PlanError."""
        ...

    def sized(self, plan: Plan) -> SizedPlan:
        """The plan tensor by tensor; raises PlanError for one that the format cannot hold."""
        ...

    def of(self, plan: Plan) -> int:
        """Bytes of the artefact, `sized(plan).file_bytes`."""
        ...


class Conversion(Protocol):
    """A conversion of one source to one artefact, planned when it is made, nothing written yet."""

    def describe(self) -> ConvertResult:
        """What would be written, to the byte."""
        ...

    def check(self, result: ConvertResult, *, overwrite: bool) -> None:
        """Raise OutputError when it cannot be written there."""
        ...

    def write(self, options: WriteOptions) -> WriteResult:
        """Write the artefact; raises KannaError and leaves nothing under the final name."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Converter:
    """How sources become artefacts of one format.

    Each file beside this one that writes a format exports one as CONVERSION, under the name of the
    format.

    Attributes:
        summary: What it makes, in a line.
        takes: Fields of a request that it has a use for.
        begin: Makes the conversion of a source; raises KannaError for whatever headers tell. The
            path is None for a dry run without a name.
        sizes: Makes what sizes plans of a model; None: the format has no plans.
        extra: What must be installed to write it; "" for the base install.
        modules: Import names of that extra without which nothing is written.
        late_hashes: Whether the files of the source are hashed while weights are written.
        check: Refuses a request, before the source is opened.
        preflight: Refuses a source by its headers, before a weight of it is fetched.
        keeps_tokenizer_files: Whether the files of a tokenizer stay as they are; otherwise its
            fields become metadata.
    """

    summary: str
    takes: Sequence[str]
    begin: Callable[[Source, Path | None, ConversionRequest], Conversion]
    sizes: Callable[[Source, Model, Guidance], Sizes] | None = None
    extra: str = ""
    modules: Sequence[str] = ()
    late_hashes: bool = False
    check: Callable[[ConversionRequest], None] | None = None
    preflight: Callable[[Source], object] = load_model
    keeps_tokenizer_files: bool = True


def get_preset(presets: Mapping[str, Preset], name: str, format: str) -> Preset:
    """The preset of that name; raises UnknownPresetError naming those of the format."""
    if name not in presets:
        raise unknown_preset(name, presets, format)
    return presets[name]


def floats(tensors: Mapping[str, Tensor], encoding: str) -> Resolved:
    """Every one of `tensors`, vectors too, in one floating type."""
    chosen = encodings.get(encoding)
    entries = [
        TensorPlan(name=name, tensor=tensor, encoding=chosen, method="nearest")
        for name, tensor in tensors.items()
    ]
    return Resolved(
        name=encoding,
        entries=entries,
        substitutions=[],
        nominal_bits=chosen.bits,
        bits=chosen.bits,
    )


def sized_floats(resolved: Resolved) -> SizedPlan:
    """Weights in a floating type, sized without what the container adds."""
    return SizedPlan(resolved=resolved, file_bytes=sum(e.nbytes for e in resolved.entries))


def folder_written(out: Path, started: float, peak: Peak) -> WriteResult:
    """The result of a folder that was begun at `started` of the performance counter."""
    return WriteResult(
        paths=[out],
        file_bytes=folder_size(out),
        seconds=time.perf_counter() - started,
        peak_bytes=peak.look(),
    )


def described(
    sized: SizedPlan, *, paths: list[Path], command: str, notes: list[str]
) -> ConvertResult:
    """The result of what is planned and not written yet."""
    return ConvertResult(
        paths=paths,
        file_bytes=sized.file_bytes,
        preset=sized.resolved.name,
        bits_per_weight=sized.resolved.bits,
        nominal_bits=sized.resolved.nominal_bits,
        substitutions=sized.resolved.substitutions,
        tensors=sized.tensors,
        command=command,
        notes=notes,
    )

"""What a conversion to one format is, and what it returns."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from kanna._util.peak_memory import Peak
from kanna._util.progress import Progress
from kanna.checks import VerifyResult
from kanna.formats.gguf.write import WriteResult
from kanna.model import Model, Tensor
from kanna.plan import Plan, Resolved, RuleModel, Substitution, resolve
from kanna.sources import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertResult:
    """What was written, or with `dry_run` what would be.

    Attributes:
        bits_per_weight: Tensors as written.
        nominal_bits: If no tensor had been substituted.
        peak_bytes: Most memory of our own while writing, without pages of the mapped source.
        tensors: Name, shape, source and target encoding, method and bytes of each.
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

    def to_dict(self) -> dict[str, Any]:
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
            "verify": self.verify.to_dict() if self.verify else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user asks for, as `convert` takes it; a format refuses what it has no use for.

    products' names

    Attributes:
        method: None: the format's own choice.
        include, exclude: Of an int8 graph, patterns of its.
    """

    preset: str | None = None
    encoding: str | None = None
    plan: str | Path | Plan | None = None
    imatrix: str | Path | None = None
    statistics: str | Path | None = None
    method: str | None = None
    split_max_size: int | None = None
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """How to write: threads, what to do with NaN and infinity (`refuse` or `zero`), where to report."""

    threads: int
    overwrite: bool
    nonfinite: str
    progress: Progress


MATRICES = ("preset", "encoding", "plan", "imatrix", "statistics", "method", "split_max_size")
"""Fields that say how matrices are stored in one file or folder of weights."""


class Work(Protocol):
    """A conversion of one source to one format, planned when it is made and nothing written yet.

    Each file beside this one exports a class of this kind as WORK.
    """

    late_hashes: bool
    """Whether the files of the source are hashed while weights are written, and asked for last."""
    takes: Sequence[str]
    """Fields of a request that it has a use for."""
    summary: str
    """What it makes, in a line."""
    extra: str
    """What must be installed for it; "" for the base install."""

    def __init__(self, source: Source, model: Model, out: Path | None, request: Request) -> None:
        """Raises KannaError for whatever headers tell. out: None for a dry run without a name."""
        ...

    def describe(self) -> ConvertResult:
        """What would be written, to the byte."""
        ...

    def check(self, result: ConvertResult, *, overwrite: bool) -> None:
        """Raise OutputError when it cannot be written there."""
        ...

    def write(self, running: Running) -> WriteResult: ...


def floats(model: Model, tensors: Mapping[str, Tensor], encoding: str) -> Resolved:
    """`model` with other `tensors`, all of them in one floating type."""
    every = RuleModel(pattern="", encoding=encoding, method="nearest")
    return resolve(
        replace(model, tensors=dict(tensors)), plan=Plan(encoding=encoding, rules=[every])
    )


def folder_written(out: Path, started: float, peak: Peak) -> WriteResult:
    """The result of a folder that was begun at `started` of the performance counter."""
    return WriteResult(
        paths=[out],
        file_bytes=sum(p.stat().st_size for p in out.rglob("*") if p.is_file()),
        seconds=time.perf_counter() - started,
        peak_bytes=peak.look(),
    )


def described(
    resolved: Resolved,
    *,
    paths: list[Path],
    file_bytes: int,
    preset: str,
    command: str,
    notes: list[str],
) -> ConvertResult:
    """The result of what is planned and not written yet."""
    return ConvertResult(
        paths=paths,
        file_bytes=file_bytes,
        preset=preset,
        bits_per_weight=resolved.bits,
        nominal_bits=resolved.nominal_bits,
        substitutions=resolved.substitutions,
        tensors=_rows(resolved),
        command=command,
        notes=notes,
    )


def _rows(resolved: Resolved) -> list[dict[str, Any]]:
    """Of each tensor what the result says."""
    return [
        {
            "name": e.name,
            "shape": list(e.tensor.shape),
            "source": e.tensor.dtype,
            "encoding": e.encoding.name,
            "method": e.method if e.encoding.block > 1 else "",
            "bytes": e.nbytes,
        }
        for e in resolved.entries
    ]

"""Conversion to a GGUF for llama.cpp."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kanna import encodings, plan, provenance
from kanna._util.units import format_size
from kanna.conversion.base import MATRICES, ConvertResult, Request, Running, described
from kanna.conversion.guidance import informed
from kanna.encodings import grid_detection
from kanna.errors import GateError, KannaError
from kanna.formats import gguf
from kanna.formats.gguf.write import plan_files
from kanna.formats.stream import check_output
from kanna.model import MetaValue, Model
from kanna.plan import Resolved
from kanna.sources import Source

DEFAULT_PRESET = "Q4_K_M"


class ToGGUF:
    """A conversion to GGUF."""

    late_hashes = True
    takes = MATRICES
    extra = ""
    summary = "Conversion to a GGUF for llama.cpp"

    def __init__(self, source: Source, model: Model, out: Path | None, request: Request) -> None:
        self.source, self.model, self.request = source, model, request
        self.out = out or Path(f"{source.name}.gguf")
        preset, encoding, plan_file = request.preset, request.encoding, request.plan
        if preset is None and encoding is None and plan_file is None:
            preset = DEFAULT_PRESET
        given = informed(source, model, request)
        self.imatrix, self.statistics, method = given.imatrix, given.statistics, given.method
        known = self.imatrix or self.statistics
        chosen = plan.load(plan_file) if isinstance(plan_file, (str, Path)) else plan_file
        self.resolved: Resolved = plan.resolve(
            model,
            preset=preset,
            encoding=encoding,
            plan=chosen,
            weights=known.weights if known else None,
            second_moments=self.statistics.second_moment if self.statistics else None,
            method=method,
        )
        self.command = provenance.command(
            source,
            {
                "preset": preset,
                "encoding": encoding,
                "plan": Path(plan_file) if isinstance(plan_file, (str, Path)) else None,
                "imatrix": self.imatrix.path if self.imatrix else None,
                "statistics": self.statistics.folder if self.statistics else None,
                "method": given.unusual,
            },
        )

        self.metadata = provenance.metadata(
            model,
            source,
            self.resolved,
            hashes=None,
            command=self.command,
            imatrix=self.imatrix,
            statistics=self.statistics.sha256 if self.statistics else None,
        )

    def describe(self) -> ConvertResult:
        files = plan_files(
            self.out, self.metadata, self.resolved.entries, self.request.split_max_size
        )
        total = sum(f.total_bytes for f in files)
        return described(
            self.resolved,
            paths=[f.path for f in files],
            file_bytes=total,
            preset=self.resolved.name,
            command=self.command,
            notes=self.model.notes + self._notes(total),
        )

    def _notes(self, total: int) -> list[str]:
        notes: list[str] = []
        if provenance.quantized_source(self.model):
            size = sum(p.stat().st_size for p in self.source.weight_files)
            if total >= size:
                notes.append(
                    f"the output ({format_size(total)}) is no smaller than the source ({format_size(size)}) and cannot "
                    "be better: use the source itself, or a smaller preset"
                )
        starved = [
            e for e in self.resolved.entries if e.encoding.needs_weights and e.weights is None
        ]
        if starved and self.imatrix is None and self.statistics is None:
            notes.append(
                f"{starved[0].encoding.label} wants an importance matrix, and none was given: quality will be poor"
            )
        return notes

    def check(self, result: ConvertResult, *, overwrite: bool) -> None:
        check_output(result.paths, overwrite=overwrite, needed=result.file_bytes)

    def write(self, running: Running) -> gguf.WriteResult:
        written = gguf.write(
            self.out,
            metadata=self.metadata,
            tensors=self.resolved.entries,
            threads=running.threads,
            progress=running.progress,
            split_max_size=self.request.split_max_size,
            overwrite=running.overwrite,
            nonfinite=running.nonfinite,
            late=self._hashes,
        )
        file = _check_written(written.paths, self.metadata, self.resolved)
        grids = grid_detection.detect_all(self.model.tensors)
        pairs = [(self.model.tensors[name], file.tensors[name]) for name in grids]
        told = grid_detection.describe_errors(
            (a, b) for a, b in pairs if encodings.get(b.dtype).block > 1
        )
        return replace(written, notes=[*grid_detection.describe(grids), *([told] if told else [])])

    def _hashes(self) -> dict[str, MetaValue]:
        return {
            provenance.SOURCE_HASHES: provenance.source_hashes(self.source, self.source.hashes())
        }


def _check_written(
    paths: list[Path], keys: dict[str, MetaValue], resolved: Resolved
) -> gguf.GGUFFile:
    """Read the artefact again: every tensor with its type and shape, every key with its value."""
    try:
        file = gguf.read(paths[0])
        wrong = [
            e.name
            for e in resolved.entries
            if e.name not in file.tensors
            or file.tensors[e.name].dtype != e.encoding.name
            or file.tensors[e.name].shape != (e.tensor.shape or (1,))
        ]
        lost = [k for k in keys if k not in file.metadata]
    except KannaError as error:
        raise GateError(
            f"{paths[0].name} cannot be read again: {error.found}", todo="check the disk"
        ) from error
    if wrong or lost:
        raise GateError(
            f"{paths[0].name} does not hold {(wrong + lost)[0]} as it was written",
            todo="check the disk",
        )
    return file


WORK = ToGGUF

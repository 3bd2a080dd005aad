"""Conversion to a GGUF for llama.cpp."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kanna import encodings, provenance
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
from kanna.conversion.carried import check_encoding, check_entries
from kanna.conversion.guidance import Guidance, read_guidance
from kanna.encodings import grid_detection
from kanna.errors import GateError, KannaError
from kanna.families import load_for_gguf, load_model, require_tokenizer
from kanna.formats import gguf
from kanna.formats.gguf.layout import alignment_of, pack_metadata, total_bytes
from kanna.formats.stream import WriteResult, check_output
from kanna.model import MetaValue, Model
from kanna.plan import Plan, Resolved, resolve
from kanna.plan import gguf as presets
from kanna.sources import Source


class GGUFSizes:
    """Exact bytes of GGUFs of one model; each of its own metadata values is packed once."""

    def __init__(self, source: Source, model: Model, guidance: Guidance) -> None:
        require_tokenizer(model)
        self._source, self._model, self._guidance = source, model, guidance
        self._alignment = alignment_of(model.metadata)
        self._value_bytes: dict[str, int] = {}

    def preset(self, name: str) -> Plan:
        """The plan of a preset for this model; raises PlanError for an unknown one."""
        preset = gguf.FORMAT.presets[presets.canonical(name)]
        plan = preset.plan(self._model, weighted=bool(self._guidance.weights))
        return plan.with_method(self._guidance.method)

    def resolved(self, plan: Plan) -> Resolved:
        """The encoding and method of every tensor."""
        return resolve(
            self._model,
            plan=plan,
            weights=self._guidance.weights,
            second_moments=self._guidance.second_moments,
            method=self._guidance.method,
        )

    def command(self, plan: Plan) -> str:
        """The command that makes the artefact of a plan again."""
        named = dict([plan.origin]) if plan.origin else {}
        return provenance.command(self._source, {**named, **self._guidance.options})

    def keys(self, plan: Plan, resolved: Resolved) -> dict[str, MetaValue]:
        """The metadata that says how the artefact was made, with zeros for hashes of the source."""
        statistics = self._guidance.statistics
        return provenance.keys(
            self._model,
            self._source,
            resolved,
            hashes=None,
            command=self.command(plan),
            imatrix=self._guidance.imatrix,
            statistics=statistics,
            file_type=presets.file_type(plan),
        )

    def file_bytes(self, plan: Plan, resolved: Resolved) -> int:
        """Bytes of the one file that `layout` plans."""
        keys = self.keys(plan, resolved)
        size = len(pack_metadata(keys))
        for key, value in provenance.carried(self._model, keys).items():
            if key not in self._value_bytes:
                self._value_bytes[key] = len(pack_metadata({key: value}))
            size += self._value_bytes[key]
        return total_bytes(size, resolved.entries, self._alignment)

    def sized(self, plan: Plan) -> SizedPlan:
        """The plan tensor by tensor, with the bytes of the file."""
        resolved = self.resolved(plan)
        return SizedPlan(resolved=resolved, file_bytes=self.file_bytes(plan, resolved))

    def of(self, plan: Plan) -> int:
        """Bytes of the file."""
        return self.file_bytes(plan, self.resolved(plan))


class GGUFConversion:
    """A conversion to GGUF."""

    def __init__(
        self, source: Source, model: Model, out: Path | None, request: ConversionRequest
    ) -> None:
        self.source, self.model, self.split_max_size = source, model, request.split_max_size
        self.out = out or Path(f"{source.name}.gguf")
        if request.encoding is not None:
            check_encoding(gguf.FORMAT.name, request.encoding)
        self.guidance = read_guidance(
            source,
            model,
            imatrix=request.imatrix,
            statistics=request.statistics,
            method=request.method,
            device=request.device,
        )
        sizes = GGUFSizes(source, model, self.guidance)
        plan = request.as_plan(sizes.preset, presets.DEFAULT)
        self.resolved = sizes.resolved(plan)
        check_entries(gguf.FORMAT.name, self.resolved.entries)
        self.command = sizes.command(plan)
        keys = sizes.keys(plan, self.resolved)
        self.metadata = provenance.carried(model, keys) | keys
        self._whole_bytes = sizes.file_bytes(plan, self.resolved)

    def describe(self) -> ConvertResult:
        """What would be written, to the byte."""
        paths, total = [self.out], self._whole_bytes
        if self.split_max_size is not None and total > self.split_max_size:
            files = gguf.plan_files(
                self.out, self.metadata, self.resolved.entries, self.split_max_size
            )
            paths, total = [f.path for f in files], sum(f.total_bytes for f in files)
        return described(
            SizedPlan(resolved=self.resolved, file_bytes=total),
            paths=paths,
            command=self.command,
            notes=self.model.notes + self.model.tokenizer_notes + self._notes(),
        )

    def _notes(self) -> list[str]:
        notes = self.guidance.notes(self.resolved.entries)
        starved = [
            e for e in self.resolved.entries if e.encoding.needs_weights and e.weights is None
        ]
        if starved and self.guidance.weights is None:
            notes.append(
                f"{starved[0].encoding.label} wants an importance matrix, and none was given: "
                "quality will be poor"
            )
        elif starved:
            notes.append(
                f"{len(starved)} tensors such as {starved[0].name} get "
                f"{starved[0].encoding.label}, which wants importances, and have none: their "
                "quality will be poor"
            )
        return notes

    def check(self, result: ConvertResult, *, overwrite: bool) -> None:
        """Raise OutputError when there is no room, or something is there."""
        check_output(result.paths, overwrite=overwrite, needed=result.file_bytes)

    def write(self, options: WriteOptions) -> WriteResult:
        """Stream the tensors to the file, and read it again."""
        examination = options.examination(self.source)
        looked = options.examine(self.source, self.metadata) if options.examine else []

        def late() -> dict[str, MetaValue]:
            tensors = {e.name: e.tensor for e in self.resolved.entries}
            looked.extend(
                examination(
                    WrittenArtefact(
                        format=gguf.FORMAT.name, metadata=self.metadata, tensors=tensors
                    )
                )
            )
            return self._hashes()

        written = gguf.write(
            self.out,
            metadata=self.metadata,
            tensors=self.resolved.entries,
            threads=options.threads,
            progress=options.progress,
            split_max_size=self.split_max_size,
            overwrite=options.overwrite,
            nonfinite=options.nonfinite,
            late=late,
        )
        file = check_written(written.paths, self.metadata, self.resolved)
        grids = grid_detection.detect_all(self.model.tensors)
        pairs = [(self.model.tensors[name], file.tensors[name]) for name in grids]
        note = grid_detection.describe_errors(
            (a, b) for a, b in pairs if encodings.get(b.dtype).block > 1
        )
        return replace(
            written, notes=[*looked, *grid_detection.describe(grids), *([note] if note else [])]
        )

    def _hashes(self) -> dict[str, MetaValue]:
        return {
            provenance.SOURCE_HASHES: provenance.source_hashes(self.source, self.source.hashes())
        }


def check_written(
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


def begin(source: Source, out: Path | None, request: ConversionRequest) -> GGUFConversion:
    """Plan the conversion of a source."""
    return GGUFConversion(source, load_model(source), out, request)


CONVERSION = Converter(
    summary="Conversion to a GGUF for llama.cpp",
    takes=MATRICES,
    begin=begin,
    sizes=GGUFSizes,
    late_hashes=True,
    preflight=load_for_gguf,
    keeps_tokenizer_files=False,
)

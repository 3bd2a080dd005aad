"""Convert a source: one plan, streamed, and checked when it is written."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanna import digest, families, imatrix, methods, plan, provenance
from kanna import statistics as stats
from kanna.errors import GateError, KannaError, OutputError, UsageError
from kanna.formats import gguf, safetensors
from kanna.formats.gguf.write import plan_files
from kanna.formats.stream import check_output
from kanna.hardware.cpu import default_threads
from kanna.model import MetaValue, Model
from kanna.plan import Plan, Resolved, Substitution
from kanna.progress import Progress, Silent
from kanna.sources import Source, open_source
from kanna.units import format_size

if TYPE_CHECKING:
    from kanna.verify import VerifyResult

DEFAULT_PRESET = "Q4_K_M"
FLOATS = ("bf16", "f16", "f32")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertResult:
    """What was written, or with `dry_run` what would be.

    bits_per_weight: tensors as written; nominal_bits: if no tensor had been substituted
    peak_bytes:      most memory of our own while writing, without pages of the mapped source
    tensors:         name, shape, source and target encoding, method and bytes of each
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
                {"name": s.name, "wanted": s.wanted, "got": s.got, "reason": s.reason} for s in self.substitutions
            ],
            "tensors": self.tensors,
            "command": self.command,
            "notes": self.notes,
            "seconds": self.seconds,
            "peak_bytes": self.peak_bytes,
            "verify": self.verify.to_dict() if self.verify else None,
        }


def convert(
    source: str | Path | Source,
    out: str | Path | None = None,
    *,
    preset: str | None = None,
    encoding: str | None = None,
    plan: str | Path | Plan | None = None,
    imatrix: str | Path | None = None,
    statistics: str | Path | None = None,
    dry_run: bool = False,
    split_max_size: int | None = None,
    format: str = "gguf",
    method: str | None = None,
    nonfinite: str = "refuse",
    threads: int | None = None,
    overwrite: bool = False,
    verify: bool = False,
    revision: str | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> ConvertResult:
    """Write `source` as one artefact.

    One of preset (default Q4_K_M), encoding and plan. format: `gguf`, or `safetensors` for a Hugging Face
    folder in bf16, f16 or f32. imatrix: llama.cpp's importance matrix. statistics: a folder `kanna calibrate` wrote.
    method: how values are chosen; None: `gptq` with statistics, else `search`. split_max_size in bytes.
    nonfinite: `refuse` a source with NaN or infinity, or store `zero` in their place. threads: default all cores.

    Raises KannaError before anything is written whenever headers can tell; never leaves a partial file
    under the final name.
    """
    started = time.perf_counter()
    bar = progress or Silent()
    given = [name for name, value in (("preset", preset), ("encoding", encoding), ("plan", plan)) if value is not None]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} were given together", expected="one of them")
    if imatrix is not None and statistics is not None:
        raise UsageError("imatrix and statistics were given together", expected="one of them")
    if out is None and not dry_run:
        raise UsageError("no output was named", expected="a path")
    opened = open_source(
        source, revision=revision, offline=offline, weights=not dry_run, preflight=families.load_model, progress=bar
    )
    if out is not None and not dry_run:
        _refuse_source_as_output(opened, Path(out))
    if format == "gguf" and not dry_run:
        digest.begin(opened.decisive_files)  # beside the encoding: the file asks for them last
    model = families.load_model(opened)
    if format == "safetensors":
        work: _Work = _Folder(opened, model, Path(out or "."), encoding, preset or plan)
    else:
        if not given:
            preset = DEFAULT_PRESET
        name = Path(out or f"{opened.name}.gguf")
        work = _GGUF(opened, model, name, preset, encoding, plan, imatrix, statistics, method)
    result = work.describe(split_max_size)
    if dry_run:
        return result
    workers = threads or default_threads()
    work.check(result, overwrite)
    written = work.write(workers, overwrite, split_max_size, nonfinite, bar)
    result = replace(
        result,
        paths=written.paths,
        file_bytes=written.file_bytes,
        peak_bytes=written.peak_bytes,
        seconds=time.perf_counter() - started,
    )
    if verify:
        from kanna.verify import verify as prove

        result = replace(result, verify=prove(opened, result.paths[0], threads=threads, progress=progress))
    return result


def _refuse_source_as_output(source: Source, out: Path) -> None:
    for path in [source.path, *source.weight_files]:
        if out.exists() and path.exists() and out.samefile(path):
            raise OutputError(f"{out} is the source itself", todo="choose another name")


class _GGUF:
    """A conversion to GGUF."""

    def __init__(
        self,
        source: Source,
        model: Model,
        out: Path,
        preset: str | None,
        encoding: str | None,
        plan_file: str | Path | Plan | None,
        imatrix_file: str | Path | None,
        statistics_folder: str | Path | None,
        method: str | None,
    ) -> None:
        self.source, self.model, self.out = source, model, out
        self.imatrix = imatrix.read(imatrix_file) if imatrix_file is not None else None
        self.statistics = stats.read(statistics_folder) if statistics_folder is not None else None
        if self.statistics:
            self.statistics.check(model)
        usual = "gptq" if self.statistics else "search"
        method = method or usual
        if methods.get(method).needs_moment and not self.statistics:
            raise UsageError(
                f"the method {method} needs statistics", expected="--statistics FOLDER",
                todo=f"kanna calibrate {source.given} -o statistics",
            )  # fmt: skip
        informed = self.imatrix or self.statistics
        chosen = plan.load(plan_file) if isinstance(plan_file, (str, Path)) else plan_file
        self.resolved: Resolved = plan.resolve(
            model,
            preset=preset,
            encoding=encoding,
            plan=chosen,
            weights=informed.weights if informed else None,
            moments=self.statistics.moment if self.statistics else None,
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
                "method": method if method != usual else None,
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

    def describe(self, split_max_size: int | None) -> ConvertResult:
        files = plan_files(self.out, self.metadata, self.resolved.entries, split_max_size)
        total = sum(f.total_bytes for f in files)
        return ConvertResult(
            paths=[f.path for f in files],
            file_bytes=total,
            preset=self.resolved.name,
            bits_per_weight=self.resolved.bits,
            nominal_bits=self.resolved.nominal_bits,
            substitutions=self.resolved.substitutions,
            tensors=_rows(self.resolved),
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
        starved = [e for e in self.resolved.entries if e.encoding.needs_weights and e.weights is None]
        if starved and self.imatrix is None and self.statistics is None:
            notes.append(
                f"{starved[0].encoding.ggml_name} wants an importance matrix, and none was given: quality will be poor"
            )
        return notes

    def check(self, result: ConvertResult, overwrite: bool) -> None:
        check_output(result.paths, overwrite=overwrite, needed=result.file_bytes)

    def write(
        self, threads: int, overwrite: bool, split_max_size: int | None, nonfinite: str, progress: Progress
    ) -> gguf.WriteResult:
        written = gguf.write(
            self.out,
            metadata=self.metadata,
            tensors=self.resolved.entries,
            threads=threads,
            progress=progress,
            split_max_size=split_max_size,
            overwrite=overwrite,
            nonfinite=nonfinite,
            late=self._hashes,
        )
        _check_written(written.paths, self.metadata, self.resolved)
        return written

    def _hashes(self) -> dict[str, MetaValue]:
        return {provenance.SOURCE_HASHES: provenance.source_hashes(self.source, self.source.hashes())}


def _rows(resolved: Resolved) -> list[dict[str, Any]]:
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


def _check_written(paths: list[Path], keys: dict[str, MetaValue], resolved: Resolved) -> None:
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
        raise GateError(f"{paths[0].name} cannot be read again: {error.found}", todo="check the disk") from error
    if wrong or lost:
        raise GateError(f"{paths[0].name} does not hold {(wrong + lost)[0]} as it was written", todo="check the disk")


class _Folder:
    """A conversion to a Hugging Face folder."""

    def __init__(self, source: Source, model: Model, out: Path, encoding: str | None, other: object) -> None:
        if other is not None:
            raise UsageError("presets and plans are for GGUF", expected=f"--encoding {', '.join(FLOATS)}")
        if encoding is not None and encoding not in FLOATS:
            raise UsageError(f"safetensors holds no {encoding}", expected=f"--encoding {', '.join(FLOATS)}")
        self.source, self.model, self.out = source, model, out
        sizes = {"bf16": 0, "f16": 0, "f32": 0}
        for tensor in model.tensors.values():
            if tensor.dtype in sizes and len(tensor.shape) > 1:
                sizes[tensor.dtype] += tensor.nbytes
        # The floating type most of the source has; a quantized source gets float16, which holds its values best.
        self.encoding = encoding or (max(sizes, key=lambda n: sizes[n]) if any(sizes.values()) else "f16")
        config, tensors, self.files = families.to_hf(model)
        config["torch_dtype"] = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}[self.encoding]
        self.config = config
        hf = replace_tensors(model, tensors)
        self.resolved = plan.resolve(hf, plan=Plan(encoding=self.encoding, rules=[_all(self.encoding)]))
        self.command = provenance.command(source, {"format": "safetensors", "encoding": encoding})

    def describe(self, split_max_size: int | None) -> ConvertResult:
        return ConvertResult(
            paths=[self.out],
            file_bytes=sum(e.nbytes for e in self.resolved.entries),
            preset=self.encoding,
            bits_per_weight=self.resolved.bits,
            nominal_bits=self.resolved.nominal_bits,
            substitutions=[],
            tensors=_rows(self.resolved),
            command=self.command,
            notes=self.model.notes,
        )

    def check(self, result: ConvertResult, overwrite: bool) -> None:
        safetensors.check_folder(self.out, overwrite=overwrite, needed=result.file_bytes)

    def write(
        self, threads: int, overwrite: bool, split_max_size: int | None, nonfinite: str, progress: Progress
    ) -> gguf.WriteResult:
        import json

        files = {"config.json": (json.dumps(self.config, indent=2) + "\n").encode(), **self.files}
        written = safetensors.write_folder(
            self.out,
            tensors=self.resolved.entries,
            files=files,
            threads=threads,
            progress=progress,
            overwrite=overwrite,
            nonfinite=nonfinite,
            **({"shard_bytes": split_max_size} if split_max_size else {}),
        )
        return replace(written, paths=[self.out])


_Work = _GGUF | _Folder


def _all(encoding: str) -> plan.RuleModel:
    return plan.RuleModel(pattern="", encoding=encoding, method="nearest")


def replace_tensors(model: Model, tensors: Any) -> Model:
    """The same model with other tensors."""
    return replace(model, tensors=dict(tensors))

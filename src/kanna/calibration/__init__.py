"""Calibrate: run text through a source and store second moments of the inputs of every matrix."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from kanna import __version__, families
from kanna._util import extras, own_files
from kanna._util.arguments import several
from kanna._util.atomic import write_json, write_text
from kanna._util.bars import shown
from kanna._util.disk import explain
from kanna._util.locks import holding
from kanna._util.own_files import sweep_for
from kanna._util.progress import Progress
from kanna._util.results import Result
from kanna.adapters import AdapterWeights
from kanna.calibration import adapted_passes, fingerprint, self_generated, statistics, texts
from kanna.calibration import gradients as backward
from kanna.calibration.adapted_passes import (
    AdaptedPasses,
    adapted_sources,
    adapters_key,
    refuse_parts,
)
from kanna.calibration.devices import CPU, check_device, serves
from kanna.calibration.disk import check_disk
from kanna.calibration.expert_coverage import coverage, facts
from kanna.calibration.run import clear, run
from kanna.calibration.shards import spread
from kanna.calibration.shards.part import Shard
from kanna.calibration.shards.spread import ShardCall, ShardedText, check_parts
from kanna.calibration.statistics import HELD_TEXT, IMATRIX
from kanna.calibration.windows import WINDOW, CalibrationWindows, cut
from kanna.errors import FormatError, OutputError, PlanError, UsageError
from kanna.executors import LOCAL
from kanna.model import Model
from kanna.sources import Source, open_source

__all__ = ["CalibrateResult", "calibrate"]

EXTRA = "torch"
TEXTS = {
    "built-in": "Prose, code, conversations and other languages, written for kanna; "
    "read when nothing is named",
    "files": "Text and JSON-lines files of the user's own; "
    "conversations as the model's own template renders them",
    self_generated.SELF: "Text that the model itself writes, half of it after a question",
}
"""What can be calibrated on, and what it is."""
TOKENS = 24_576
WIDEST = 4096
"""Second moments are whole up to so many columns; wider sites get blocks along the diagonal."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CalibrateResult(Result):
    """The statistics that a calibration wrote, or found written.

    Attributes:
        folder: The statistics.
        sites: Places whose inputs were measured.
        tokens: Tokens that count.
        held_tokens: Tokens held out.
        domains: Tokens by kind of text.
        shrink: Number of sites by their shrinkage.
        blocks: Width of the blocks, of sites whose second moment is in blocks.
        bytes: Size of the folder.
        seconds: Time it took.
        reused: Whether the statistics were there already.
        device: Where torch computed them.
        notes: Remarks.
        coverage: Where experts are: by layer, the tokens that went to each, and which of them saw
            too few (`layer`, `tokens`, `few`).
    """

    folder: str
    sites: int
    tokens: int
    held_tokens: int
    domains: dict[str, int]
    shrink: dict[str, int]
    blocks: dict[str, int]
    bytes: int
    seconds: float
    reused: bool = False
    device: str = CPU
    notes: list[str] = field(default_factory=list[str])
    coverage: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def headline(self) -> str:
        """Where the statistics are."""
        return f"{self.folder}: {self.sites} matrices, {self.tokens} tokens"

    def facts(self) -> list[tuple[str, object]]:
        """Where it was computed, and which experts the text reached."""
        return [("Device", self.device), *facts(self.coverage)]

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return asdict(self)


def calibrate(
    source: str | Path | Source,
    out: str | Path,
    *,
    calibration: Sequence[str | Path] | str | Path | None = None,
    adapter: AdapterWeights | None = None,
    tokens: int = TOKENS,
    widest: int = WIDEST,
    shard: str | None = None,
    shards: int | None = None,
    on: str | None = None,
    on_set: Mapping[str, object] | str | Sequence[str] | None = None,
    gradients: bool = False,
    device: str | None = None,
    revision: str | None = None,
    offline: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> CalibrateResult:
    """Write the statistics of `source`, and an imatrix.gguf for llama.cpp, to a folder.

    One decoder layer is in memory at a time. An interrupted run goes on with the layer it was at;
    statistics of the same source, text and settings are left as they are. Raises MissingError
    without torch, UsageError for a text that is too short, KannaError naming the layer whose
    activations are not numbers.

    Args:
        source: What is calibrated.
        out: The folder; statistics of the same source, text and settings are reused.
        calibration: Text and JSON-lines files, and `self` for text sampled from the model; None:
            the built-in set of prose, code, conversations and languages.
        adapter: Adapters that will be switched on beside the quantized source: the text is read
            without and with each of them, and all that their inputs are counts.
        tokens: Tokens to read; one window in eight is held out.
        widest: Columns up to which a whole second moment (the mean of x·xᵀ over inputs x) is
            stored; wider matrices get blocks along its diagonal.
        shard: `2/4`: read the second of four parts of the text alone, to be merged by
            `statistics`; None: all of it.
        shards: Read the text in so many parts, each by itself, and merge them: equal to the whole
            but for rounding, and the same bytes wherever the parts are read.
        on: The executor whose machines read them, such as `ray`; None: this one, one by one.
        on_set: Options of the executor, as a mapping or as texts such as `address=HOST:6379`.
        gradients: Write the gradients of every matrix's outputs, too, which `optimize` needs.
        device: `cpu`, `cuda` or `mps`; None: an accelerator when there is one.
        revision: Branch, tag or commit of a model on the hub.
        offline: Use only what is on this machine.
        overwrite: Calibrate again, also when the same statistics are there.
        progress: Where progress is reported; None: a bar in terminals and notebooks.
    """
    started = time.perf_counter()
    progress = shown(progress)
    part = Shard.parse(shard) if shard is not None else None
    if tokens < WINDOW:
        raise UsageError(f"{tokens} tokens", expected=f"at least {WINDOW}")
    check_parts(shard, shards, on, several(calibration))
    refuse_parts(adapter, shard, shards)
    opened = open_source(
        source,
        revision=revision,
        offline=offline,
        preflight=families.load_decoder,
        progress=progress,
    )
    folder = Path(out)
    _refuse_file(folder)
    check_device(device)
    options = {"tokens": tokens, "widest": widest, "device": device}
    text = _read(opened, calibration, options, progress)
    adapted = adapted_sources(opened, adapter, offline=offline)
    windows, key = text.windows, text.key | adapters_key(adapted, progress)
    if part is not None:
        windows = part.of(windows)
        key[statistics.SHARD] = asdict(part) | {"first": windows.first}
    reused = not overwrite and _is_complete(folder, key, device)
    if shards is not None or adapted:
        reused = reused and (not gradients or (folder / backward.FILE).is_file())
    if not reused:
        extras.require(EXTRA, "calibration", ("torch", "transformers"))
    notes: list[str] = []
    with holding(folder, "calibrate", parents=True):
        reused = reused and _is_kept(folder, key, device)
        differentiates = gradients and shards is None and not adapted
        if differentiates and not (reused and (folder / backward.FILE).is_file()):
            check_disk(text.model, windows.ids.size, widest, folder, gradients=True)
        if shards is not None and not reused:
            whole = ShardedText(
                model=text.model, windows=windows, key=key, count=shards, gradients=gradients
            )
            call = text.call(opened, options | {"gradients": gradients})
            whole.write(folder, call, on or LOCAL, on_set, progress)
        elif adapted and not reused:
            write = partial(_write, sketched=text.model, device=device, progress=progress)
            passes = AdaptedPasses(adapted, text.model, windows, key, gradients, device)
            notes = passes.run(folder, write, progress)
        elif not reused:
            _write(text.model, windows, folder, key, device=device, progress=progress)
        if differentiates:
            digest = statistics.read(folder, shard=part is not None).sha256
            notes = backward.gradients(
                text.model, windows, folder, digest, device=device, progress=progress
            )
    return _result(
        folder,
        windows,
        shard=part is not None,
        reused=reused,
        seconds=time.perf_counter() - started,
        notes=notes,
    )


def _refuse_file(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise OutputError(
            f"{folder} is a file", expected="a folder, which is made when it is absent"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _ReadText:
    """The text of a calibration.

    Attributes:
        paths: Its files; None: the built-in set.
        key: What statistics of all of it depend on.
    """

    model: Model
    windows: CalibrationWindows
    paths: Sequence[Path] | None
    key: dict[str, Any]

    def call(self, source: Source, options: dict[str, Any]) -> ShardCall:
        """The calibration of it, for other processes."""
        texts = None if self.paths is None else tuple(str(p.absolute()) for p in self.paths)
        return ShardCall(
            calibrate=calibrate, source=str(source.path.absolute()), texts=texts, options=options
        )


def _read(
    source: Source,
    calibration: Sequence[str | Path] | str | Path | None,
    options: dict[str, Any],
    progress: Progress,
) -> _ReadText:
    """Read the text, and what its statistics will depend on."""
    model, tokens = families.load_decoder(source), options["tokens"]
    files = self_generated.resolve(
        calibration, source, model, tokens=tokens, device=options["device"], progress=progress
    )
    documents, digest = texts.documents(files.paths, model)
    windows = cut(documents, model, tokens=tokens)
    text = {
        "name": "built-in" if files.paths is None else ", ".join(d.name for d in documents),
        "sha256": digest,
    }
    key: dict[str, Any] = {
        "version": statistics.VERSION,
        "kanna": __version__,
        "source": source.hashes(progress),
        "text": text | ({"sampled": files.sampled} if files.sampled else {}),
        "window": windows.ids.shape[1],
        "tokens": windows.num_tokens,
        "widest": options["widest"],
    }
    return _ReadText(model=model, windows=windows, paths=files.paths, key=key)


def _write(
    model: Model,
    windows: CalibrationWindows,
    folder: Path,
    key: dict[str, Any],
    *,
    device: str | None,
    progress: Progress,
    sketched: Model | None = None,
) -> None:
    """Run the text through the model and write the folder of its statistics.

    They are of `sketched`, where that is another one.
    """
    sweep_for(folder)
    check_disk(model, windows.ids.size, key["widest"], folder)
    folder.mkdir(parents=True, exist_ok=True)
    for stale in (statistics.INDEX, backward.FILE):
        (folder / stale).unlink(missing_ok=True)
    try:
        made = run(
            model, windows, folder, key, widest=key["widest"], device=device, progress=progress
        )
    except OSError as error:
        raise explain(error, folder) from error
    write_text(folder / HELD_TEXT, windows.held_text)
    fingerprint.save(folder / statistics.FINGERPRINT, fingerprint.compute(sketched or model))
    index = key | {statistics.DEVICE: made.device, "sites": made.sites}
    if made.remarks:
        index[statistics.REMARKS] = made.remarks
    if statistics.SHARD not in key:
        statistics.Statistics(folder, index).save_imatrix(folder / IMATRIX)
    write_json(folder / statistics.INDEX, index)  # last: a folder with an index is complete
    clear(folder)


def _result(
    folder: Path,
    windows: CalibrationWindows,
    *,
    shard: bool,
    reused: bool,
    seconds: float,
    notes: list[str],
) -> CalibrateResult:
    read = statistics.read(folder, shard=shard)
    sites = read.sites
    shrinkage = [f"{s.shrink:g}" for s in sites.values()]
    return CalibrateResult(
        folder=str(folder),
        sites=len(sites),
        tokens=windows.num_tokens,
        held_tokens=windows.ids.size - windows.num_tokens,
        domains={
            d: windows.domains.count(d) * windows.ids.shape[1] for d in sorted(set(windows.domains))
        },
        shrink={s: shrinkage.count(s) for s in sorted(set(shrinkage))},
        blocks={name: s.block for name, s in sites.items() if s.block < s.columns},
        bytes=sum(p.stat().st_size for p in folder.iterdir() if p.is_file()),
        seconds=seconds,
        reused=reused,
        device=read.computed_on,
        notes=[*read.remarks, *notes],
        coverage=[asdict(layer) for layer in coverage(sites)],
    )


def _is_complete(folder: Path, key: dict[str, Any], device: str | None) -> bool:
    """Whether an earlier run of the same key, and device if one is named, wrote all files."""
    if not (folder / statistics.INDEX).is_file():
        return False
    try:
        earlier = statistics.read(folder, shard=statistics.SHARD in key)
    except (FormatError, PlanError):
        return False
    files = {site.file for site in earlier.sites.values()}
    files |= {HELD_TEXT, statistics.FINGERPRINT}
    files |= set() if statistics.SHARD in key else {IMATRIX}
    if not serves(device, earlier.computed_on):
        return False
    same = {k: earlier.info.get(k) for k in key} == key
    return same and all((folder / name).is_file() for name in files)


def _is_kept(folder: Path, key: dict[str, Any], device: str | None) -> bool:
    """The same, asked by who holds the folder: parts of a run that was ended at its end go."""
    kept = _is_complete(folder, key, device)
    if kept:
        own_files.remove(adapted_passes.parts_of(folder))
        own_files.remove(spread.parts_of(folder))
    return kept

"""Which presets fit: exact file sizes from headers, memory at a context length, estimated speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from kanna import families, formats
from kanna._util.bars import shown
from kanna._util.progress import Progress
from kanna._util.results import Result, ResultTable
from kanna._util.units import Size, format_size, optional_size
from kanna.errors import UsageError
from kanna.families import towers
from kanna.formats.base import Format
from kanna.formats.memory import CONTEXT, buffer_bytes, cache_bytes
from kanna.hardware import device_speeds, encoding_speed_file, measured_speed
from kanna.hardware.encoding_speed import EncodingSpeeds
from kanna.hardware.mask import outside
from kanna.hardware.memory import memory as machine_memory
from kanna.hardware.targets import TargetChoice
from kanna.model import Model
from kanna.recommendation import (
    Candidate,
    Recommendation,
    knee,
    recommend,
    side_bytes,
    source_facts,
)
from kanna.sizing.closeness import MeasuredCloseness, recall
from kanna.sizing.rows import FitRow, rows
from kanna.sizing.speed_notes import speed_notes, target_notes
from kanna.sources import Source, open_source

__all__ = ["FitResult", "FitRow", "buffer_bytes", "cache_bytes", "fit", "room"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class FitResult(Result):
    """What fits.

    Attributes:
        rows: Every preset, the largest first.
        recommended: The preset at the knee of size and closeness that fits, as of `compare`, or
            None.
        advice: The recommendation as a sentence, with its reason.
        keep_source: Whether the source itself is the file to use.
        target: The device and backend that were asked about; None: this machine.
    """

    name: str
    memory: int
    context: int
    rows: list[FitRow]
    recommended: str | None
    advice: str
    notes: list[str] = field(default_factory=list[str])
    keep_source: bool = False
    target: dict[str, Any] | None = None

    @property
    def ok(self) -> bool:
        """Whether anything fits."""
        return self.keep_source or any(row.fits for row in self.rows)

    def headline(self) -> str:
        """The recommendation."""
        return f"{self.name}: {self.advice}"

    def tables(self) -> list[ResultTable]:
        """Every preset."""
        rows = [
            (
                "✓" if r.fits else "✗",
                r.preset,
                format_size(r.file_bytes),
                f"{r.bits_per_weight:.2f}",
                format_size(r.memory_bytes),
                f"{r.tokens_per_second:.1f}" if r.tokens_per_second else "not known",
            )
            for r in self.rows
        ]
        columns = ("fits", "preset", "file>", "bits>", "memory>", "tokens/s, estimated>")
        return [ResultTable(columns=columns, rows=rows)]

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return asdict(self)


def fit(
    source: str | Path | Source,
    *,
    memory: Size | None = None,
    context: int | None = None,
    format: str = formats.DEFAULT,
    target: str | None = None,
    speeds: str | Path | None = None,
    mmproj: bool = False,
    revision: str | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> FitResult:
    """Show which presets of `source` fit into `memory` bytes at `context` tokens.

    Reads headers only; of a hub id no weight is fetched. File sizes
    are those `convert` writes, to the byte; of ONNX folders, what the weights take.

    Args:
        source: What would be converted.
        memory: Bytes, or a text such as 2GB; None: what the target has, else what is free on this
            machine.
        context: Tokens of context that the cache must hold; None: those of the target, else 4096.
        format: Whose presets they are.
        target: A device and its backend, such as raspberry-pi-5 or snapdragon-8-elite:hexagon;
            None: this machine.
        speeds: A file of costs of encodings, as `bench` exports them; None: those of the
            target or of this machine, where they were measured.
        mmproj: Count the source's vision tower, in 16 bits and reading a picture.
        revision: Branch, tag or commit of a model on the hub.
        offline: Use only what is on this machine.
        progress: Where progress is reported; None: a bar in terminals and notebooks.
    """
    if format not in formats.runnable():
        raise UsageError(f"no presets of {format!r}", expected=", ".join(formats.runnable()))
    chosen = formats.get(format)
    device = device_speeds.choose_for(target, chosen.name)
    if context is None:
        context = device.context if device is not None else CONTEXT
    if context < 1:
        raise UsageError(f"a context of {context} tokens", expected="1 or more")
    opened = open_source(
        source, revision=revision, offline=offline, weights=False, progress=shown(progress)
    )
    model = families.load_model(opened)
    if opened.gguf is not None:
        families.check_stored(model)
    asked = optional_size(memory)
    limit = asked if asked is not None else device.memory if device is not None else _free()
    table = _speeds(model, chosen, device, speeds)
    beside = towers.memory_bytes(opened) if mmproj else 0
    unsorted = rows(opened, model, chosen, limit - beside, context, target=device, speeds=table)
    fitted = [
        replace(row, memory_bytes=row.memory_bytes + beside)
        for row in sorted(unsorted, key=lambda r: -r.file_bytes)
    ]
    # Of the smallest: a cache is larger only where all is float32, in a format that packs it.
    overhead = fitted[-1].memory_bytes - fitted[-1].weight_bytes
    notes = model.notes + _notes(model, context, overhead, limit) + _on_demand(fitted)
    if beside:
        notes.append(f"the vision tower takes {format_size(beside)} of it, in 16 bits")
    if chosen.memory is not None and (draft := chosen.memory.drafts(model, context)):
        notes.append(
            f"its head for further tokens takes {format_size(draft)} of cache beside this where "
            f"{chosen.runtime_title} drafts with it"
        )
    notes += target_notes(device, measured=table is not None)
    notes += speed_notes(model, table, fitted) if table is not None else []
    if chosen.size_note:
        notes.append(chosen.size_note)
    stored = ((name, t.dtype, t.shape) for name, t in model.tensors.items())
    # A source with tensors that the target does not multiply is no better than such a preset.
    runs_whole = device is None or not outside(device, stored)
    verdict = _recommend(fitted, opened, chosen, limit - overhead if runs_whole else 0)
    return FitResult(
        name=model.name,
        memory=limit,
        context=context,
        rows=fitted,
        recommended=verdict.name,
        advice=f"{verdict.name}: {verdict.why}" if verdict.name else verdict.why,
        keep_source=verdict.keep_source,
        notes=notes,
        target=device.to_dict() if device is not None else None,
    )


def _speeds(
    model: Model, format: Format, device: TargetChoice | None, file: str | Path | None
) -> EncodingSpeeds | None:
    """Costs of encodings that were named, or measured here or on the device; None: estimated."""
    if file is not None:
        table = encoding_speed_file.read(Path(file))
        encoding_speed_file.check_format(table, format.name)
        return table
    if device is None:
        return measured_speed.cached(model, format)
    return device_speeds.of_target(device, model)


def room(model: Model, among: Sequence[str], context: int = CONTEXT) -> int:
    """Bytes of memory that weights may take here beside the cache and buffers of any format.

    As `fit` has it when neither memory nor context is named.
    """
    memories = [m for m in (formats.get(name).memory for name in among) if m is not None]
    others = max((m.cache(model, context) + m.buffers(model, context) for m in memories), default=0)
    return _free() - others


def _free() -> int:
    return machine_memory().available


def _recommend(fitted: list[FitRow], source: Source, format: Format, room: int) -> Recommendation:
    """By the rule of `compare`: among the files that it compared here, else among those it makes.

    Only where none of those can be used, all presets are looked at.
    """
    facts = source_facts(source, [format.name], room=room)
    measured = recall(source, format.name)
    usual = {formats.qualified(format.name, format.canonical(p)) for p in format.compared_presets}
    exact = formats.qualified(format.name, format.exact_preset)
    candidates = _candidates(fitted, source, format, measured)
    among = [
        [c for c in candidates if c.name in measured and len(measured) > 1],
        [c for c in candidates if c.name in {*usual, *measured, exact}],
    ]
    for those in among:
        verdict = recommend(those, facts, knee)
        if verdict.name or verdict.keep_source:
            return verdict
    return recommend(candidates, facts, knee)


def _candidates(
    fitted: list[FitRow],
    source: Source,
    format: Format,
    measured: Mapping[str, MeasuredCloseness],
) -> list[Candidate]:
    special = {formats.qualified(format.name, p.name) for p in format.presets.values() if p.special}
    exact = formats.qualified(format.name, format.exact_preset)
    sides = 0 if format.suffix else side_bytes(source)
    return [
        Candidate(
            name=row.preset,
            file_bytes=row.file_bytes + sides,
            format=format.name,
            bits_per_weight=row.bits_per_weight,
            special=row.preset in special,
            exact=row.preset == exact,
            fits=row.fits,
            kl_mean=known.kl_mean if (known := measured.get(row.preset)) else row.expected_kl,
            top1=known.top1 if known else None,
            expected=row.preset not in measured,
        )
        for row in fitted
    ]


def _notes(model: Model, context: int, overhead: int, limit: int) -> list[str]:
    notes: list[str] = []
    trained = model.whole("{arch}.context_length", 0)
    if trained and context > trained:
        notes.append(
            f"the model was trained for {trained} tokens of context, {context} are asked for"
        )
    if overhead > limit:
        notes.append(f"the cache and buffers alone take {format_size(overhead)}: lower --context")
    return notes


def _on_demand(fitted: Sequence[FitRow]) -> list[str]:
    """A note on tables that are not in memory."""
    left = [row for row in fitted if row.on_demand_bytes]
    if not left:
        return []
    presets, size = ", ".join(row.preset for row in left), left[0].on_demand_bytes
    return [
        f"of {presets}, up to {format_size(size)} of embeddings per layer stay in the file: "
        "llama.cpp reads their rows as they are asked for, and memory is without them"
    ]

"""How much is done: what the user named, and the most that a time budget has room for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kanna._util import folders
from kanna._util.bars import duration
from kanna._util.disk import folder_size
from kanna._util.units import format_size
from kanna.calibration import TOKENS, texts
from kanna.errors import KannaError, OutputError, UsageError
from kanna.formats.onnx.static_shapes import StaticShape
from kanna.optimization.adapters.base import Adapter
from kanna.optimization.forecast import Forecast, MachineRates, ModelShapes, SearchExtent, predict
from kanna.optimization.forecast.encoding_work import vectors
from kanna.optimization.guard import guard_tokens
from kanna.optimization.measure import CANDIDATES
from kanna.optimization.request import EFFORTS, Effort, OptimizeRequest
from kanna.optimization.speed_table import untimed
from kanna.optimization.text_extent import proof_windows

MARGIN = 1.25
"""Predictions may be so far below what is taken: a budget is filled to its part."""
_USUAL_BITS = 4.6
"""Bits per weight where the budget does not tell them before the model is opened."""
_NARROW = 3.6
"""Bits per weight from which vectors are not needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rung:
    """What is done less and less, where the time is short."""

    effort: str
    swaps: int | None = None
    tokens: int = TOKENS
    windows: int | None = None
    narrow: bool = False


_LADDER = (
    _Rung(effort="max"),
    _Rung(effort="max", swaps=16),
    _Rung(effort="max", swaps=0),
    _Rung(effort="balanced"),
    _Rung(effort="balanced", tokens=12_288),
    _Rung(effort="fast"),
    _Rung(effort="fast", tokens=12_288, windows=16),
    _Rung(effort="fast", tokens=8192, windows=16, narrow=True),
    _Rung(effort="fast", tokens=4096, windows=8, narrow=True),
    _Rung(effort="fast", tokens=2048, windows=8, narrow=True),
)
"""From the most to the least; the first that fits is taken."""
_WITHOUT = ("gradients",)
"""Stages that are left out with a note where the disk is full."""


def bits_of(request: OptimizeRequest, adapter: Adapter, shapes: ModelShapes) -> float:
    """Bits per weight of the result, near enough to know how long it takes to write."""
    if request.size is not None:
        return min(16.0, 8 * request.size / shapes.parameters)
    if request.bpw is not None:
        return min(16.0, request.bpw)
    if request.like is not None:
        try:
            size = adapter.preset_size(adapter.preset_named(request.like))
        except UsageError:
            raise
        except KannaError:
            return _USUAL_BITS
        return min(16.0, 8 * size / shapes.parameters)
    return _USUAL_BITS


def extent_of(
    request: OptimizeRequest, adapter: Adapter, shapes: ModelShapes, threads: int
) -> SearchExtent:
    """What the request asks for, without a time budget."""
    effort = EFFORTS[request.effort]
    return SearchExtent(
        effort=effort,
        tokens=request.tokens,
        windows=_windows(request, shapes),
        candidates=tuple(adapter.candidates() or CANDIDATES),
        bits=bits_of(request, adapter, shapes),
        threads=threads,
        probes=effort.probing and adapter.supports_probing,
        levels=effort.probing and adapter.supports_levels,
        swaps=effort.swaps if adapter.supports_local_search else 0,
        corrects=effort.correction and adapter.supports_local_search,
        tunes=_tunes(request, effort, adapter),
        guard_tokens=guard_tokens(request.guard, request.examples),
        cache_tokens=request.context if request.memory is not None else 0,
        compares=adapter.compares,
        timed=untimed(request, adapter),
        passes=1 + len(request.adapter) * request.apart,
        kinds=texts.kinds(request.calibration),
        static=StaticShape.parse(request.static) if request.static else None,
    )


def _windows(request: OptimizeRequest, shapes: ModelShapes) -> int | None:
    """Windows to evaluate on; None: as `evaluate` does."""
    if request.windows is None and request.text is None:
        return proof_windows(shapes.parameters)
    return request.windows


def _tunes(request: OptimizeRequest, effort: Effort, adapter: Adapter) -> bool:
    """Whether scales are tuned."""
    return (effort.tuning or request.recover) and adapter.supports_tuning


def choose(
    request: OptimizeRequest,
    adapter: Adapter,
    shapes: ModelShapes,
    rates: MachineRates,
    threads: int,
    *,
    spent: float = 0.0,
    referenced: bool = False,
) -> Forecast:
    """What is done and how long it takes: as the request says, or the most that fits its time.

    Args:
        request: What the user asks for.
        adapter: Of its format.
        shapes: Of the model.
        rates: Of the machine.
        threads: Cores that are used.
        spent: Seconds of the time budget that are gone.
        referenced: Whether the source in float32 is there already.

    Raises:
        UsageError: Nothing fits; it names the least time that is possible.
    """
    asked = replace(extent_of(request, adapter, shapes, threads), referenced=referenced)
    limit = request.time_budget
    if limit is None:
        return predict(shapes, asked, rates)
    least: Forecast | None = None
    for extent in _extents(request, adapter, asked):
        forecast = predict(shapes, extent, rates)
        if MARGIN * forecast.seconds <= limit - spent:
            return forecast
        if least is None or forecast.seconds < least.seconds:
            least = forecast
    assert least is not None
    needed = duration(MARGIN * least.seconds + spent)
    raise UsageError(
        f"a time budget of {duration(limit)}",
        expected=f"at least {needed} on this machine: {words(least.extent)}",
        todo="give it more time, or see where it goes with --dry-run and without --time-budget",
    )


def _extents(
    request: OptimizeRequest, adapter: Adapter, asked: SearchExtent
) -> Iterator[SearchExtent]:
    """What may be done, from the most to the least, with what the user named as it is."""
    for rung in _LADDER:
        if "effort" in request.named and rung.effort != request.effort:
            continue
        effort = EFFORTS[rung.effort]
        if rung.swaps is not None:
            effort = replace(effort, swaps=rung.swaps)
        candidates = asked.candidates
        if rung.narrow and asked.bits >= _NARROW:
            candidates = tuple(name for name in candidates if not vectors(name))
        yield replace(
            asked,
            effort=effort,
            tokens=asked.tokens if "tokens" in request.named else rung.tokens,
            windows=asked.windows if "windows" in request.named else rung.windows or asked.windows,
            candidates=candidates,
            probes=effort.probing and adapter.supports_probing,
            levels=effort.probing and adapter.supports_levels,
            swaps=effort.swaps if adapter.supports_local_search else 0,
            corrects=effort.correction and adapter.supports_local_search,
            tunes=_tunes(request, effort, adapter),
        )
    if "effort" in request.named:  # what was named at its least
        for tokens, windows in ((8192, 16), (4096, 8), (2048, 8)):
            yield replace(
                asked,
                tokens=asked.tokens if "tokens" in request.named else tokens,
                windows=asked.windows if "windows" in request.named else windows,
            )


def words(extent: SearchExtent) -> str:
    """`balanced, 24,576 tokens, 21 encodings, 32 windows, no tuning`."""
    name = next(
        (n for n, e in EFFORTS.items() if replace(e, swaps=0) == replace(extent.effort, swaps=0)),
        "",
    )
    parts = [name, f"{extent.tokens:,} tokens", f"{len(extent.candidates)} encodings"]
    parts += [f"{extent.evaluated} windows", "tuning" if extent.tunes else "no tuning"]
    return ", ".join([*parts, f"{extent.swaps} swaps"] if extent.swaps else parts)


def chosen(request: OptimizeRequest, forecast: Forecast) -> dict[str, Any] | None:
    """What a time budget came to, as JSON has it; None without one."""
    if request.time_budget is None:
        return None
    extent = forecast.extent
    return {
        "seconds": request.time_budget,
        "predicted_seconds": round(forecast.seconds, 1),
        "chosen": words(extent),
        "tokens": extent.tokens,
        "windows": extent.evaluated,
        "encodings": len(extent.candidates),
        "swaps": extent.swaps,
        "tuning": extent.tunes,
    }


def check_disk(forecast: Forecast, folder: Path) -> None:
    """Raise OutputError where a disk has less than what all stages need at a time.

    Args:
        forecast: What is done.
        folder: The output folder, which may not be there yet; what lies in it is counted as done.
    """
    needed = max(s.disk for s in forecast.stages if s.stage not in _WITHOUT) - folder_size(folder)
    there, cache = _existing(folder), _existing(folders.cache_folder())
    cached, words = forecast.cache, "what the stages write and spool"
    if cached and there.stat().st_dev == cache.stat().st_dev:
        needed, words = needed + cached, f"{words}, and for the source in float32 in {cache}"
    elif cached:
        _check_free(cache, cached, "the source in float32, which files are compared with")
    _check_free(there, needed, words)


def _existing(folder: Path) -> Path:
    """A folder, or the nearest above it that is there."""
    return next(p for p in (folder.absolute(), *folder.absolute().parents) if p.is_dir())


def _check_free(folder: Path, needed: int, words: str) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"{folder} has {format_size(free)} free",
            expected=f"{format_size(needed)} for {words}",
            todo="free some space, or name a folder on another disk; --dry-run shows every stage",
        )

"""Stages of an optimization with the time that was predicted and taken, for JSON and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kanna._util.bars import duration
from kanna._util.units import format_size
from kanna.optimization.context import StageClock
from kanna.optimization.forecast import Forecast
from kanna.optimization.stages import STAGES

_INSIDE = {"allocate": ("memory",), "prove": ("reference",)}
"""What the clock has of a stage under names of its own: caches that are judged and filled, and the
source in float32, which is made and checked before all stages."""
TIME_COLUMNS = ("stage", "predicted>", "memory>", "disk>", "taken>")


def times(forecast: Forecast, clock: StageClock | None = None) -> list[dict[str, Any]]:
    """Every stage as JSON has it.

    Args:
        forecast: What was predicted.
        clock: What was taken; None: nothing was run.
    """
    rows: list[dict[str, Any]] = []
    for stage in forecast.stages:
        laps = (STAGES[stage.stage].lap, *_INSIDE.get(stage.stage, ()))
        rows.append(
            {
                "stage": stage.stage,
                "predicted_seconds": stage.seconds,
                "predicted_cpu_seconds": stage.cpu_seconds,
                "seconds": _taken(clock.seconds, laps) if clock else None,
                "cpu_seconds": _taken(clock.cpu, laps) if clock else None,
                "memory_bytes": stage.memory,
                "disk_bytes": stage.disk,
                "cache_bytes": stage.cache,
                "note": stage.note,
            }
        )
    return rows


def _taken(laps_of: Mapping[str, float], laps: Sequence[str]) -> float | None:
    """Seconds of the laps of a stage that there were; None where there was none."""
    there = [laps_of[lap] for lap in laps if lap in laps_of]
    return round(sum(there), 2) if there else None


def total(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    """The sum of a figure over all stages."""
    return sum(row[name] or 0.0 for row in rows)


def time_rows(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Rows of a table with TIME_COLUMNS, the last one for all stages together."""
    shown = [_shown(row) for row in rows]
    taken = [row["seconds"] for row in rows if row["seconds"] is not None]
    whole = (
        "all",
        duration(total(rows, "predicted_seconds")),
        format_size(max((row["memory_bytes"] for row in rows), default=0)),
        format_size(max((row["disk_bytes"] for row in rows), default=0)),
        duration(sum(taken)) if taken else "",
    )
    return [*shown, whole]


def _shown(row: Mapping[str, Any]) -> tuple[str, ...]:
    if row["note"]:
        return row["stage"], row["note"], "", "", ""
    return (
        row["stage"],
        duration(row["predicted_seconds"]),
        format_size(row["memory_bytes"]),
        format_size(row["disk_bytes"]),
        duration(row["seconds"]) if row["seconds"] is not None else "",
    )

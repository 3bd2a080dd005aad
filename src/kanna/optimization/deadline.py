"""A run within its time: what was predicted is told, and what does not fit any more is left out."""

from __future__ import annotations

import time

from kanna._util.bars import duration
from kanna._util.units import format_size
from kanna.optimization.job import Job
from kanna.optimization.time_budget import words

_STAGES_AFTER = {
    "probe": ("allocate", "write", "prove", "report"),
    "accuracy": ("prove", "report"),
    "local-search": ("prove", "report"),
    "correction": ("prove", "report"),
    "tuning": ("prove", "report"),
    "guard": ("report",),
}
"""Stages that have to follow one that may be left out."""


class Deadline:
    """When a run with a time budget has to have ended; without one, never."""

    def __init__(self, job: Job) -> None:
        self._job, self._began = job, time.monotonic() - job.forecast.spent

    def allows(self, stage: str) -> bool:
        """Whether a stage fits with all that must follow it; a note says so if not.

        Args:
            stage: One that may be left out.
        """
        limit, forecast = self._job.request.time_budget, self._job.forecast
        if limit is None:
            return True
        left = limit - (time.monotonic() - self._began)
        needed = sum(
            one.seconds for one in forecast.stages if one.stage in (stage, *_STAGES_AFTER[stage])
        )
        if needed <= left:
            return True
        self._job.context.note(
            f"{stage} was left out: {duration(max(0.0, left))} of the time budget were left, "
            f"{duration(needed)} are needed to the end with it"
        )
        return False


def tell_forecast(job: Job) -> None:
    """Say how long the run takes, and what a time budget chose."""
    forecast, context = job.forecast, job.context
    if job.request.time_budget is not None:
        context.note(f"the time budget chose: {words(forecast.extent)}")
        context.on_message(f"chosen by the time budget: {words(forecast.extent)}")
    context.on_message(
        f"about {duration(forecast.seconds)} on this machine with nothing else to do, "
        f"{format_size(forecast.memory)} of memory, {format_size(forecast.disk)} of disk"
    )

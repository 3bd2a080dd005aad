"""How long the stages of an optimization take here, and what they need, before they begin."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from kanna._util.bars import duration
from kanna._util.units import format_size
from kanna.hardware.memory import memory
from kanna.optimization.forecast import calibration_work, correction_work, search_work, tuning_work
from kanna.optimization.forecast.accelerator import accelerator_rates
from kanna.optimization.forecast.effort import SearchExtent
from kanna.optimization.forecast.rates import MachineRates, machine_rates
from kanna.optimization.forecast.shapes import ModelShapes, shapes_of
from kanna.optimization.forecast.work import StageForecast, Work

__all__ = [
    "SearchExtent",
    "Forecast",
    "MachineRates",
    "ModelShapes",
    "StageForecast",
    "accelerator_rates",
    "machine_rates",
    "predict",
    "shapes_of",
]

_WORK: Mapping[str, Callable[[ModelShapes, SearchExtent, MachineRates], Work]] = {
    "calibrate": calibration_work.calibrate,
    "gradients": calibration_work.backward,
    "measure": search_work.measure,
    "probe": search_work.probe,
    "allocate": search_work.allocate,
    "write": search_work.write,
    "accuracy": search_work.accuracy,
    "local-search": search_work.local_search,
    "correction": correction_work.correction,
    "tuning": tuning_work.tuning,
    "prove": search_work.prove,
    "guard": search_work.guard,
    "report": search_work.report,
}
"""What each stage takes, by its name in STAGES and in that order."""
_NO_LEVELS = "nothing to choose at this effort"


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What an optimization takes here.

    Attributes:
        stages: In order, those that are left out too.
        extent: How much is done.
        spent: Seconds that are gone before the stages begin, to time encodings.
    """

    stages: Sequence[StageForecast]
    extent: SearchExtent
    spent: float = 0.0

    @property
    def seconds(self) -> float:
        """Of all stages, by the clock on the wall, on a machine with nothing else to do."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def cpu_seconds(self) -> float:
        """Of all stages and processors."""
        return sum(stage.cpu_seconds for stage in self.stages)

    @property
    def memory(self) -> int:
        """Bytes at most."""
        return max(stage.memory for stage in self.stages)

    @property
    def disk(self) -> int:
        """Bytes in the output folder at most."""
        return max(stage.disk for stage in self.stages)

    @property
    def cache(self) -> int:
        """Bytes that are made in the cache folder."""
        return max(stage.cache for stage in self.stages)


def predict(
    shapes: ModelShapes, extent: SearchExtent, rates: MachineRates, *, available: int | None = None
) -> Forecast:
    """What every stage takes.

    Args:
        shapes: Of the model.
        extent: How much is done.
        rates: Of the machine.
        available: Bytes of memory that are free; None: those that are.
    """
    free = memory().available if available is None else available
    left_out = {
        "probe": not extent.probes,
        "accuracy": not extent.levels,
        "local-search": not extent.swaps,
        "correction": not extent.corrects,
        "tuning": not extent.tunes,
        "guard": not extent.guard_tokens,
    }
    reasons, counted = {"guard": "no guard", "accuracy": _NO_LEVELS}, extent
    if not extent.held_windows(shapes.window):
        for name in ("probe", "accuracy"):
            if not left_out[name]:
                left_out[name] = True
                reasons[name] = "of so few tokens none are held out, and it needs some"
        counted = replace(extent, probes=False)
    kept = 0.0
    stages: list[StageForecast] = []
    for name, work_of in _WORK.items():
        work, note = Work(), ""
        if left_out.get(name):
            note = reasons.get(name, "not at this effort")
        else:
            work = work_of(shapes, counted, rates)
        if name == "guard" and not note:
            needed = duration(work.seconds(extent.threads, rates.disk))
            work, note = Work(), f"where no file within the budget holds: about {needed} a file"
        if work.optional and work.memory > free:
            note = f"left out: it takes {format_size(int(work.memory))} of memory"
            work = Work()
        stages.append(
            StageForecast(
                stage=name,
                seconds=round(work.seconds(extent.threads, rates.disk), 2),
                cpu_seconds=round(work.cpu, 2),
                memory=int(work.memory),
                disk=int(kept + work.disk) if not note else 0,
                cache=int(work.cache),
                note=note,
            )
        )
        kept += work.kept
    return Forecast(stages=stages, extent=extent)

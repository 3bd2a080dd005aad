"""What a budget of time decides, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kanna.optimization.adapters.base import Adapter, PresetOffer
from kanna.optimization.job import Allocation, CalibratedSource, Job, Proof
from kanna.optimization.report_data import preset_costs
from kanna.optimization.search import size_range
from kanna.plan.allocate import Choice, largest, smallest

_OTHER_SIZES = (0.85, 1.15)
"""Shares of the bytes of matrices at which plans of other speeds are looked for, too."""


def settle(
    adapter: Adapter,
    choices: Sequence[Choice],
    free: Sequence[Choice],
    nbytes: int,
) -> None:
    """Give the adapter the seconds that the matrices of its plans may take.

    Args:
        adapter: The format, with the statistics.
        choices: What the plan is chosen from.
        free: The same without the user's constraints, for presets.
        nbytes: Of the artefact.

    Raises:
        PlanError: No plan of these bytes is as fast as was asked; it names the fastest.
    """
    speed = adapter.workspace.speed
    if speed is None:
        return
    room = nbytes - size_range(adapter, choices).fixed
    speed.check(choices, room)
    rivals: list[float] = []
    if speed.objective != "quality":
        offers = {n: o for n, o in adapter.offers().items() if o.file_bytes <= nbytes}
        rivals = list(preset_costs(free, offers).values())
    adapter.seconds = speed.ceiling(choices, room, rivals)


def rival(
    job: Job, adapter: Adapter, allocation: Allocation, offers: Mapping[str, PresetOffer]
) -> str | None:
    """The plain preset that a result is compared with: the largest within the budget.

    Where time counts, the closest, as predicted, of those that are as fast as the plan must be.

    Args:
        job: The optimization.
        adapter: The format.
        allocation: The plan.
        offers: Presets by name.
    """
    fitting = {
        preset: offer
        for preset, offer in offers.items()
        if offer.file_bytes <= allocation.budget.nbytes and job.constraints.hold(offer.encodings)
    }
    speed = adapter.workspace.speed
    costs: dict[str, float] = {}
    if speed is not None and adapter.seconds is not None:
        least = speed.tokens_per_second(adapter.seconds)
        reached = {p: speed.predict(o.encodings).generation for p, o in fitting.items()}
        fitting = {p: fitting[p] for p, tps in reached.items() if tps is not None and tps >= least}
        costs = preset_costs(allocation.unconstrained, fitting)
    if costs:
        return min(costs, key=lambda p: costs[p])
    return max(fitting, key=lambda p: fitting[p].file_bytes) if fitting else None


def limits(
    job: Job, calibration: CalibratedSource, allocation: Allocation, proved: Proof
) -> dict[str, Any]:
    """What became of the budgets of memory and of time; None of each where there was none."""
    text = calibration.held_out.proof
    return {
        "memory": job.memory.summary(proved.best, text) if job.memory else None,
        "speed": _speeds(calibration.adapter, allocation, proved),
    }


def _speeds(adapter: Adapter, allocation: Allocation, proved: Proof) -> dict[str, Any] | None:
    """Speeds predicted and measured, the file to use first, and what other speeds would cost."""
    speed = adapter.workspace.speed
    if speed is None:
        return None
    rows: list[dict[str, Any]] = []
    for row in sorted(proved.rows, key=lambda row: row.name != proved.pick):
        names = adapter.names
        chosen = {names.get(t["name"], t["name"]): t["encoding"] for t in row.tensors}
        predicted, measured = speed.predict(chosen), row.gen_tps
        rows.append(
            {
                "name": row.name,
                "bytes": row.file_bytes,
                "kl": row.kl_mean,
                "predicted": predicted.generation,
                "predicted_prompt": predicted.prompt,
                "measured": measured,
                "measured_prompt": row.prompt_tps,
            }
        )
    choices, planned = allocation.choices, allocation.planned
    room = planned.file_bytes - planned.fixed
    others = [round(room * share) for share in _OTHER_SIZES]
    return speed.to_dict() | {
        "rows": rows,
        "bytes": planned.file_bytes,
        "curve": speed.trade_off(choices, room),
        "other_sizes": [
            {"bytes": planned.fixed + other, "curve": speed.trade_off(choices, other)}
            for other in others
            if smallest(choices) <= other <= largest(choices)
        ],
    }

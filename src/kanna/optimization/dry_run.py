"""`optimize --dry-run`: how long every stage would take, from headers alone."""

from __future__ import annotations

from dataclasses import replace

from kanna._util.units import format_size
from kanna.comparison.quality import has_reference
from kanna.optimization.context import Context
from kanna.optimization.forecast import Forecast, accelerator_rates, machine_rates, shapes_of
from kanna.optimization.measure import CANDIDATES, unmeasured
from kanna.optimization.preflight import CheckedRequest, asked_budget, check_request
from kanna.optimization.request import OptimizeRequest
from kanna.optimization.result import OptimizeResult
from kanna.optimization.search import NAME, size_range
from kanna.optimization.speed_table import speed_goal
from kanna.optimization.time_budget import choose, chosen
from kanna.optimization.times import times


def dry_run(request: OptimizeRequest, context: Context) -> OptimizeResult:
    """What an optimization would take; no weight is read and nothing is written.

    Raises:
        UsageError: The request contradicts itself or the source, a file that it names cannot be
            read, or nothing fits the time budget.
        SourceError: An adapter does not fit the source.
        PlanError: The budget is below the smallest artefact; it names the feasible range.
    """
    checked = check_request(request, context, weights=False)
    adapter = checked.adapter
    model = adapter.workspace.model
    if request.speeds is not None or request.chosen_target is not None:
        adapter.follow(speed_goal(request, adapter.workspace.source, model, context))
    if request.memory is None and adapter.sizes_from_headers:
        _check_size(checked, request)
    shapes = shapes_of(model)
    accelerator, unknown = accelerator_rates(context.device)
    rates = replace(machine_rates(), accelerator=accelerator)
    there = has_reference(adapter.workspace.source, [request.format], hashed=False)
    forecast = choose(request, adapter, shapes, rates, context.workers, referenced=there)
    bits = forecast.extent.bits
    nbytes = request.size or request.memory or int(bits * shapes.parameters / 8)
    return OptimizeResult(
        artefact=str(adapter.artefact(NAME)),
        file_bytes=0,
        budget=nbytes,
        said=f"about {bits:.2f} bits per weight",
        bits_per_weight=bits,
        encodings={},
        predicted=0.0,
        kl_mean=None,
        top1=None,
        rival=None,
        rival_kl=None,
        gate=None,
        report="",
        plan="",
        statistics="",
        seconds={},
        times=times(forecast),
        time_budget=chosen(request, forecast),
        dry_run=True,
        device=accelerator.device if accelerator else None,
        notes=[*model.notes, *([unknown] if unknown else []), *_cached(forecast)],
    )


def _cached(forecast: Forecast) -> list[str]:
    """What is made beside the output folder."""
    if not forecast.cache:
        return []
    size = format_size(forecast.cache)
    return [f"{size} more in the cache folder, for the source in float32, unless it is there"]


def _check_size(checked: CheckedRequest, request: OptimizeRequest) -> None:
    """Raise PlanError for a budget that not even the smallest or the fastest artefact keeps."""
    adapter = checked.adapter
    # What lies on the grid of an encoding is not looked for: that takes the weights.
    measured = unmeasured(adapter.workspace.model, adapter.candidates() or CANDIDATES)
    choices = adapter.choices(measured, checked.constraints)
    feasible = size_range(adapter, choices)
    nbytes = asked_budget(request, adapter).nbytes
    feasible.check(nbytes)
    adapter.check_speed(choices, nbytes - feasible.fixed)

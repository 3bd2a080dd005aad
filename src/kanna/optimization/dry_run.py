"""`optimize --dry-run`: how long every stage would take, from headers alone."""

from __future__ import annotations

from dataclasses import replace

from kanna import families
from kanna.optimization import adapters
from kanna.optimization.context import Context, Workspace
from kanna.optimization.forecast import accelerator_rates, machine_rates, shapes_of
from kanna.optimization.guard import refuse_silent
from kanna.optimization.job import check_memory
from kanna.optimization.request import OptimizeRequest
from kanna.optimization.result import OptimizeResult
from kanna.optimization.search import NAME
from kanna.optimization.time_budget import choose, chosen
from kanna.optimization.times import times
from kanna.sources import open_source


def dry_run(request: OptimizeRequest, context: Context) -> OptimizeResult:
    """What an optimization would take; no weight is read and nothing is written.

    Raises:
        UsageError: No budget is given, or nothing fits the time budget.
    """
    request.check_budget()
    source = open_source(
        request.source,
        revision=request.revision,
        offline=request.offline,
        weights=False,
        preflight=families.load_decoder,
        progress=context.progress,
    )
    model = families.load_decoder(source)
    refuse_silent(request.guard, model, source)
    workspace = Workspace(source=source, model=model, folder=request.out, context=context)
    adapter = adapters.get(request.format)(workspace)
    check_memory(adapter, request)
    shapes = shapes_of(model)
    accelerator, unknown = accelerator_rates(context.device)
    rates = replace(machine_rates(), accelerator=accelerator)
    forecast = choose(request, adapter, shapes, rates, context.workers)
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
        notes=[*model.notes, *([unknown] if unknown else [])],
    )

"""Where the costs of encodings come from that a plan is chosen under."""

from __future__ import annotations

from pathlib import Path

from kanna import formats
from kanna.benchmark import costs
from kanna.hardware import device_speeds, encoding_speed, encoding_speed_file, measured_speed
from kanna.model import Model
from kanna.optimization.adapters.base import Adapter
from kanna.optimization.context import Context
from kanna.optimization.request import OptimizeRequest
from kanna.optimization.speed import SpeedGoal
from kanna.sources import Source


def untimed(request: OptimizeRequest, adapter: Adapter) -> int:
    """How many encodings have to be timed first; 0 where nothing is asked of the speed.

    Args:
        request: What the user asks for.
        adapter: Of its format.
    """
    if not request.counts_speed or request.speeds is not None or request.chosen_target is not None:
        return 0
    model, threads = adapter.workspace.model, adapter.workspace.context.threads
    table = measured_speed.cached(model, formats.get(request.format), threads)
    names = costs.get(request.format).encodings(model)
    return sum(table is None or name not in table.generation for name in names)


def speed_goal(
    request: OptimizeRequest, source: Source, model: Model, context: Context
) -> SpeedGoal | None:
    """What is asked of the speed, with the costs of a file, of the target or of this machine.

    Of this machine they are measured, unless they are kept from before: that takes minutes.

    Args:
        request: What the user asks for.
        source: What is converted.
        model: Whose matrices they are.
        context: Threads and progress.

    Returns:
        None where nothing is asked of it.

    Raises:
        FormatError: The file is no table of costs.
        UnsupportedError: Nothing is known of the target's speed.
        UsageError: The file is of another format.
        MissingError: The runtime is not installed, in which costs are measured.
    """
    if not request.counts_speed:
        return None
    if request.speeds is not None:
        table = encoding_speed_file.read(Path(request.speeds))
        encoding_speed_file.check_format(table, request.format)
    elif request.chosen_target is not None:
        target = request.chosen_target
        table = device_speeds.of_target(target, model)
        table = table or encoding_speed.of_target(target)
    else:
        table = costs.measure_encodings(
            source, model, request.format, progress=context.progress, threads=context.threads
        )
    if table.shapes and table.shapes != measured_speed.shapes_mark(model):
        context.note(
            "the costs of encodings were measured at the shapes of another model: speeds that are "
            "predicted of this one may be farther off than stated"
        )
    return SpeedGoal.of(table, model, request.min_speed, request.objective)

"""Where the costs of encodings come from that a plan is chosen under."""

from __future__ import annotations

from pathlib import Path

from kanna.errors import UnsupportedError
from kanna.hardware import encoding_speed
from kanna.model import Model
from kanna.optimization.context import Context
from kanna.optimization.request import OptimizeRequest
from kanna.optimization.speed import SpeedGoal


def speed_goal(request: OptimizeRequest, model: Model, context: Context) -> SpeedGoal | None:
    """What is asked of the speed, with the costs of a file, of the target or of this machine.

    Args:
        request: What the user asks for.
        model: Whose matrices they are.
        context: Threads and progress.

    Returns:
        None where nothing is asked of it.

    Raises:
        FormatError: The file is no table of costs.
        UnsupportedError: Nothing is known of the target's speed.
    """
    if not request.counts_speed:
        return None
    if request.speeds is not None:
        table = encoding_speed.read(Path(request.speeds))
    elif request.chosen_target is not None:
        table = encoding_speed.of_target(request.chosen_target)
    else:
        raise UnsupportedError(
            "no costs of encodings are known of this machine", todo="--speeds FILE"
        )
    return SpeedGoal.of(table, model, request.min_speed, request.objective)

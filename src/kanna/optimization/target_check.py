"""The file that was made, looked at again for the device it is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kanna import families
from kanna.comparison.rows import Row
from kanna.errors import GateError
from kanna.hardware import device_speeds
from kanna.hardware.mask import outside
from kanna.hardware.roofline import PredictedSpeed, predict
from kanna.hardware.targets import TargetChoice
from kanna.hardware.token_work import matrix_work
from kanna.optimization.adapters.base import Adapter
from kanna.optimization.job import Job
from kanna.sizing.rows import traffic_of
from kanna.sources import open_source


def for_target(job: Job, best: Row) -> dict[str, Any] | None:
    """What the target makes of the file: tensors outside its encodings, and predicted speed.

    Args:
        job: The checked request.
        best: The row of the file to use.

    Returns:
        None where no target was asked for; `outside` is None where nothing says which encodings the
        target refuses.

    Raises:
        GateError: The file holds tensors that the target does not multiply.
    """
    device = job.request.chosen_target
    if device is None:
        return None
    speed = _measured(device, job.adapter, best)
    number = None
    if device.is_profiled:
        model = families.load_model(open_source(Path(best.path or "")))
        bad = outside(device, ((n, t.dtype, t.shape) for n, t in model.tensors.items()))
        if bad:
            raise GateError(
                f"{best.path} holds {len(bad)} tensors that {device.name} does not multiply, such "
                f"as {bad[0].name} in {bad[0].encoding}",
                expected=", ".join(sorted(device.operators.matrices)),
                todo="report this: `kanna bug-report` makes the report",
            )
        number, speed = len(bad), speed or predict(device, traffic_of(model))
    return device.to_dict() | {
        "outside": number,
        "tokens_per_second": speed.generation if speed else None,
        "prompt_tokens_per_second": speed.prompt if speed else None,
        "speed_error": speed.error if speed else None,
    }


def _measured(device: TargetChoice, adapter: Adapter, row: Row) -> PredictedSpeed | None:
    """Speed by costs that were measured on the device; None where an encoding has none."""
    model = adapter.workspace.model
    table = device_speeds.of_target(device, model)
    if table is None:
        return None
    chosen = {adapter.names.get(t["name"], t["name"]): t["encoding"] for t in row.tensors}
    speed = table.predict((chosen[n], w) for n, w in matrix_work(model).items() if n in chosen)
    return None if speed.generation is None else speed

"""The file that was made, looked at again for the device it is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kanna import families
from kanna.comparison.rows import Row
from kanna.errors import GateError
from kanna.hardware.mask import outside
from kanna.hardware.roofline import predict
from kanna.optimization.job import Job
from kanna.sizing.rows import traffic_of
from kanna.sources import open_source


def for_target(job: Job, best: Row) -> dict[str, Any] | None:
    """What the target makes of the file: tensors outside its encodings, and predicted speed.

    Args:
        job: The checked request.
        best: The row of the file to use.

    Returns:
        None where no target was asked for.

    Raises:
        GateError: The file holds tensors that the target does not multiply.
    """
    device = job.request.chosen_target
    if device is None:
        return None
    model = families.load_model(open_source(Path(best.path or "")))
    bad = outside(device, ((n, t.dtype, t.shape) for n, t in model.tensors.items()))
    if bad:
        raise GateError(
            f"{best.path} holds {len(bad)} tensors that {device.name} does not multiply, such as "
            f"{bad[0].name} in {bad[0].encoding}",
            expected=", ".join(sorted(device.operators.matrices)),
            todo="report this: `kanna bug-report` makes the report",
        )
    speed = predict(device, traffic_of(model))
    return device.to_dict() | {
        "outside": len(bad),
        "tokens_per_second": speed.generation,
        "prompt_tokens_per_second": speed.prompt,
        "speed_error": speed.error,
    }

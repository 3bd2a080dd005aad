"""What a user should know of predicted speeds: where they come from, how far they may be off."""

from __future__ import annotations

from collections.abc import Sequence

from kanna.hardware import measured_speed
from kanna.hardware.encoding_speed import EncodingSpeeds
from kanna.hardware.targets import TargetChoice
from kanna.model import Model
from kanna.sizing.rows import FitRow


def target_notes(device: TargetChoice | None, *, measured: bool = False) -> list[str]:
    """What a user of a target should know of its figures.

    Args:
        device: The device and its backend; None: this machine.
        measured: Whether speed is by costs of encodings that were measured.
    """
    if device is None:
        return []
    if not device.is_profiled:
        return [] if measured else [_not_measured(device)]
    table, error = device.operators, device.backend.error
    notes = [
        f"{device.name}: encodings by llama.cpp's operator table of {table.date}; a preset with "
        "tensors outside it would run partly on the CPU, and does not fit"
    ]
    if table.documented:
        newer = ", ".join(sorted(table.documented))
        notes.append(f"llama.cpp's page of this backend names {newer} too; its table does not")
    if measured:
        return notes
    if device.backend.efficiency is None or error is None:
        notes.append(f"no speed was measured on {device.name}: tokens/s are not known")
    else:
        notes.append(
            f"speeds of {device.name} are predicted, within a factor of {1 + error.value:.3g}: "
            f"{error.source}"
        )
    return notes


def _not_measured(device: TargetChoice) -> str:
    """That nobody measured a format on a device, and how that is mended."""
    return (
        f"what encodings of {device.format} cost on {device.name} was not measured: tokens/s are "
        f"not known; on the device `kanna bench SRC --encodings --format {device.format} --export "
        f"FILE`, then here `kanna targets {device.target.profile} --speeds FILE`"
    )


def speed_notes(model: Model, table: EncodingSpeeds, rows: Sequence[FitRow]) -> list[str]:
    """Where speeds come from, and how far they may be off.

    Args:
        model: Whose speeds are predicted.
        table: What encodings cost.
        rows: The presets.
    """
    other = table.shapes and table.shapes != measured_speed.shapes_mark(model)
    shapes = " at the shapes of another model" if other else ""
    error = f", within a factor of {1 + table.error:.3g}" if table.error else ""
    threads = f" with {table.threads} thread{'s' * (table.threads > 1)}" if table.threads else ""
    measured = f"measured on {table.machine}{threads}{shapes}{error}"
    notes = [f"tokens/s by costs of encodings that were {measured}"]
    by_bytes = {row.preset: row.speed_error for row in rows if row.speed_error != table.error}
    if by_bytes:
        worst = max(error or 0.0 for error in by_bytes.values())
        notes.append(
            f"of {', '.join(by_bytes)}, encodings that were not measured count by their bytes, at "
            f"the speed of those that were: within a factor of {1 + worst:.3g}"
        )
    return notes

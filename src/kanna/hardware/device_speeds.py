"""Costs of encodings that were measured on a device, beside its profile of figures.

A table is a file in the user's folder of profiles, so that profiles of the package can have some,
too: PROFILE.FORMAT.SHAPES.json. It says more than the roofline of the profile, and takes its place.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from kanna._util.atomic import write_json
from kanna.hardware import encoding_speed, measured_speed, targets
from kanna.hardware.encoding_speed import EncodingSpeeds
from kanna.hardware.targets import TargetChoice
from kanna.model import Model

_PROCESSOR = "cpu"
"""The backend that costs are measured on."""


def tables(profile: str) -> dict[Path, EncodingSpeeds]:
    """Every table of a profile, by its file.

    Args:
        profile: Its name, without a size of memory.

    Raises:
        FormatError: One is no table, or a figure of it is missing or absurd.
    """
    files = sorted(targets.own_folder().glob(f"{profile}.*.json"))
    return {path: encoding_speed.read(path) for path in files}


def of_target(choice: TargetChoice, format: str, model: Model) -> EncodingSpeeds | None:
    """What encodings cost on a device; None where nobody measured on it.

    Of several tables it is the one at the shapes of the model, else the one of most encodings.

    Args:
        choice: The device and its backend.
        format: Whose runtime multiplies.
        model: What it should run.

    Raises:
        FormatError: A file beside the profile is no table.
    """
    if choice.backend.name != _PROCESSOR:
        return None
    among = [one for one in tables(choice.target.profile).values() if one.format == format]
    shapes = measured_speed.shapes_mark(model) if among else ""
    return max(among, key=lambda one: (one.shapes == shapes, len(one.generation)), default=None)


def keep(profile: str, table: EncodingSpeeds) -> Path:
    """Write a table beside a profile, in place of the last one of its format and shapes.

    Args:
        profile: The name of the profile.
        table: What was measured on its device.

    Returns:
        The file.
    """
    folder = targets.own_folder()
    folder.mkdir(parents=True, exist_ok=True)
    # What a file from elsewhere calls its shapes is no name for one of ours.
    shapes = hashlib.sha256(table.shapes.encode()).hexdigest()[:16]
    path = folder / f"{profile}.{table.format}.{shapes}.json"
    write_json(path, table.to_dict())
    return path

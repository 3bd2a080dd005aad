"""Costs of encodings that were measured on a device, beside its profile of figures.

A table is of one format, on one processor of the device, at the shapes of one model, and a file in
the user's folder of profiles, so that profiles of the package can have some, too:
PROFILE.FORMAT.SHAPES.json, or PROFILE.FORMAT.BACKEND.SHAPES.json where the processor is not the
CPU. It says more than the roofline of the profile, and takes its place.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from kanna._util.atomic import write_json
from kanna.errors import UsageError
from kanna.hardware import encoding_speed_file, measured_speed, targets
from kanna.hardware.encoding_speed import EncodingSpeeds
from kanna.hardware.targets import DeviceProfile, TargetChoice
from kanna.model import Model

_CPU = "cpu"
"""The processor that the name of a file leaves out."""


def tables(profile: str) -> dict[Path, EncodingSpeeds]:
    """Every table of a profile, by its file.

    Args:
        profile: Its name, without a size of memory.

    Raises:
        FormatError: One is no table, or a figure of it is missing or absurd.
    """
    files = sorted(targets.own_folder().glob(f"{profile}.*.json"))
    return {path: encoding_speed_file.read(path) for path in files}


def of_target(choice: TargetChoice, model: Model) -> EncodingSpeeds | None:
    """What encodings cost on a device in the format it is chosen for; None: nobody measured.

    Of several tables it is the one at the shapes of the model, else the one of most encodings.

    Args:
        choice: The device, its backend and the format.
        model: What it should run.

    Raises:
        FormatError: A file beside the profile is no table.
    """
    wanted = (choice.format, choice.backend.name)
    measured = tables(choice.target.profile).values()
    among = [one for one in measured if (one.format, one.backend) == wanted]
    shapes = measured_speed.shapes_mark(model) if among else ""
    return max(among, key=lambda one: (one.shapes == shapes, len(one.generation)), default=None)


def choose_for(text: str | None, format: str) -> TargetChoice | None:
    """The device and backend that a text means, for a format; None for none.

    Where no backend is named, it is the first one that runs the format.

    Args:
        text: `NAME`, `NAME-8gb` or `NAME:BACKEND`.
        format: That is to run there.

    Raises:
        UsageError: As `targets.choose`, or nothing is known of the format on that backend.
        FormatError: The profile, or a file beside it, is not right.
    """
    if text is None:
        return None
    choice = targets.choose(text)
    runs = formats_by_backend(choice.target)
    backend = choice.backend
    if ":" not in text and format not in runs[backend.name]:
        able = (b for b in choice.target.backends.values() if b.operators)
        backend = next((b for b in able if format in runs[b.name]), backend)
    if format not in runs[backend.name]:
        device = choice.target.profile
        raise UsageError(
            f"nothing is known of what {choice.name} multiplies in {format}",
            expected=" or ".join(runs[backend.name]),
            todo=f"measure it: on the device `kanna bench SRC --encodings --format {format} "
            f"--export FILE`, then here `kanna targets {device} --speeds FILE`; or leave out "
            "--target, and give --memory",
        )
    return TargetChoice(target=choice.target, backend=backend, format=format)


def formats_by_backend(target: DeviceProfile) -> dict[str, tuple[str, ...]]:
    """Names of the formats that each backend of a device runs: by its profile, and measured."""
    measured = tables(target.profile).values()
    return {
        name: tuple(dict.fromkeys([*b.formats, *(t.format for t in measured if t.backend == name)]))
        for name, b in target.backends.items()
    }


def keep(profile: str, table: EncodingSpeeds) -> Path:
    """Write a table beside a profile, in place of the last one of its format, backend and shapes.

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
    backend = () if table.backend == _CPU else (table.backend,)
    path = folder / f"{'.'.join([profile, table.format, *backend, shapes])}.json"
    write_json(path, table.to_dict())
    return path

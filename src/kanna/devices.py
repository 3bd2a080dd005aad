"""The verb `targets`: devices that models can be made for, and this machine as one of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from kanna import formats, runtimes
from kanna._util import arguments
from kanna._util.atomic import write_text
from kanna._util.bars import shown
from kanna._util.progress import Progress
from kanna.benchmark import costs, load
from kanna.errors import FormatError, OutputError, UsageError
from kanna.families import load_decoder
from kanna.hardware import device_speeds, encoding_speed_file, measured_speed, this_machine
from kanna.hardware import targets as profiles
from kanna.hardware.encoding_speed import EncodingSpeeds
from kanna.hardware.listing import TargetsResult
from kanna.sources import open_source

__all__ = ["TargetsResult", "targets"]

MODEL = "builtin:stories15m"
"""At whose shapes encodings are measured where no model is named."""
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def targets(
    name: str | None = None,
    *,
    measure: bool = False,
    format: str | Iterable[str] | None = None,
    model: str | Path | None = None,
    speeds: str | Path | None = None,
    overwrite: bool = False,
    offline: bool = False,
    progress: Progress | None = None,
) -> TargetsResult:
    """List the devices that `--target` takes, show one, or add this machine as one.

    Args:
        name: The device to show in full, or the name this machine gets; None: all.
        measure: Measure this machine, and write its profile to the configuration folder, with all
            costs of encodings that are kept here of the runtimes that are installed.
        format: With `measure`, formats whose costs are measured first, unless they are kept:
            minutes each; None: none are.
        model: At whose shapes; None: those of MODEL.
        speeds: A file of costs of encodings that `bench` exported on that device: from then on
            they are what its speed is predicted by, in the format and on the backend of the file.
        overwrite: Replace a profile of that name.
        offline: Use only what is on this machine already.
        progress: Where progress is reported; None: a bar in terminals and notebooks.

    Raises:
        UsageError: There is no such device, or no name was given to this machine.
        FormatError: The profile that was asked for, or the file of costs, is not right.
        OutputError: There is a profile of that name.
        MissingError: The runtime of a format that is to be measured is not installed.
    """
    wanted = arguments.names(format)
    _check(measure=measure, wanted=wanted, model=model, speeds=speeds, overwrite=overwrite)
    if measure:
        path, meter = _new_profile(name, overwrite=overwrite), load.LoadMeter()
        _measure(wanted, model or MODEL, offline, shown(progress))
        return _add(path, meter)
    if name is not None:
        if ":" in name:
            profiles.choose(name)
        return _one(name.partition(":")[0], speeds)
    if speeds is not None:
        raise UsageError("--speeds without a device", expected="kanna targets NAME --speeds FILE")
    devices, notes = list[profiles.DeviceProfile](), list[str]()
    for known in profiles.names():
        try:
            devices += profiles.devices(known)
        except FormatError as error:
            notes.append(f"{known}: {error.found}")
    return TargetsResult(devices=devices, notes=notes)


def _check(
    *,
    measure: bool,
    wanted: Sequence[str],
    model: str | Path | None,
    speeds: str | Path | None,
    overwrite: bool,
) -> None:
    """Raise UsageError for options that do not fit together."""
    if measure and speeds is not None:
        raise UsageError("--measure and --speeds were given together", expected="one of them")
    if wanted and not measure:
        raise UsageError(
            "--format says what is measured, and nothing is", expected="--measure with it"
        )
    if model is not None and not wanted:
        raise UsageError(
            "--model says at which shapes encodings are measured, and none are",
            expected="--measure --format FORMATS with it",
        )
    if overwrite and not measure:
        raise UsageError("--overwrite alone does nothing", expected="--measure with it")


def _one(name: str, speeds: str | Path | None) -> TargetsResult:
    """One profile, or one device of it, with costs of encodings that it gets from a file."""
    known = name in profiles.files()
    devices = profiles.devices(name) if known else [profiles.device(name)]
    path = ""
    if speeds is not None:
        table = encoding_speed_file.read(Path(speeds))
        able = [b.name for b in devices[0].backends.values() if b.operators]
        if table.backend not in able:
            raise UsageError(
                f"{speeds} has costs on {table.backend}",
                expected=f"on {' or '.join(able)}, which {devices[0].profile} has",
                todo="name the device that they were measured on, or the file with --speeds of "
                "`kanna fit` and `kanna optimize`",
            )
        path = str(device_speeds.keep(devices[0].profile, table))
    return _shown(devices, path)


def _shown(
    devices: list[profiles.DeviceProfile], path: str, notes: Sequence[str] = ()
) -> TargetsResult:
    """Devices of one profile with what was measured on them."""
    return TargetsResult(
        devices=devices,
        whole=True,
        path=path,
        speeds=list(device_speeds.tables(devices[0].profile).values()),
        runs=device_speeds.formats_by_backend(devices[0]),
        notes=list(notes),
    )


def _new_profile(name: str | None, *, overwrite: bool) -> Path:
    """Where the profile of this machine is to lie."""
    if name is None or not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name for this machine" if name else "this machine was given no name",
            expected="small letters, digits and hyphens",
            todo="kanna targets my-laptop --measure",
        )
    path = profiles.own_folder() / f"{name}.yaml"
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists", todo="add --overwrite to replace it")
    return path


def _measure(wanted: Sequence[str], model: str | Path, offline: bool, progress: Progress) -> None:
    """Measure what encodings of formats cost here, and keep it in the cache folder."""
    for format in wanted:
        costs.get(format).require()
    if not wanted:
        return
    source = open_source(model, offline=offline, progress=progress)
    decoder = load_decoder(source)
    for format in wanted:
        costs.measure_encodings(source, decoder, format, progress=progress)


def _add(path: Path, meter: load.LoadMeter) -> TargetsResult:
    """Write the profile of this machine, and beside it what is known of costs here."""
    installed = [
        name
        for name in formats.runnable()
        if name in costs.names() and runtimes.get(formats.get(name).runtime).available().ok
    ]
    runs = {"cpu": [formats.DEFAULT]}
    for name in installed:
        those = runs.setdefault(costs.get(name).backend(), [])
        those += [name] if name not in those else []
    profile = this_machine.profile(runs)
    busy = load.remark(meter.others())
    text = yaml.safe_dump(profile, sort_keys=False, allow_unicode=True, width=100)
    tables = [
        table
        for name in installed
        for table in measured_speed.all_of_this_machine(formats.get(name))
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    for table in tables:
        device_speeds.keep(path.stem, table)
    notes = [*_unmeasured(path.stem, installed, tables), *([busy] if busy else [])]
    return _shown(profiles.devices(path.stem), str(path), notes)


def _unmeasured(name: str, installed: Sequence[str], tables: Sequence[EncodingSpeeds]) -> list[str]:
    """A note on runtimes that are here and whose costs nobody measured here."""
    absent = [format for format in installed if format not in {t.format for t in tables}]
    if not absent:
        return []
    # The profile's own figures are of llama.cpp alone.
    by_bytes = f"by bytes alone ({formats.DEFAULT}) or " if formats.DEFAULT in absent else ""
    return [
        f"what encodings cost here in {', '.join(absent)} was not measured yet, so that speed is "
        f"predicted {by_bytes}not at all: `kanna targets {name} "
        f"--measure --overwrite --format {','.join(absent)}` measures it, minutes each"
    ]

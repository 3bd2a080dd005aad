"""The verb `targets`: devices that models can be made for, and this machine as one of them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kanna import formats
from kanna._util.atomic import write_text
from kanna._util.results import Result, ResultTable
from kanna._util.units import format_size
from kanna.errors import FormatError, OutputError, UsageError
from kanna.hardware import (
    EFFICIENCY,
    device_speeds,
    encoding_speed,
    measured_speed,
    weights_per_second,
)
from kanna.hardware import targets as profiles
from kanna.hardware.cpu import cpu, default_threads
from kanna.hardware.encoding_speed import EncodingSpeeds
from kanna.hardware.memory import bandwidth, memory
from kanna.hardware.targets import DeviceProfile

__all__ = ["TargetsResult", "targets"]

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_NO_COSTS = (
    "what encodings cost here was not measured yet, so that speed is predicted by bytes alone: "
    "`kanna bench SRC --encodings`, then `kanna targets {name} --measure --overwrite`"
)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TargetsResult(Result):
    """Devices.

    Attributes:
        devices: All of them, or those of the profile that was asked for.
        whole: Whether every figure is to be shown.
        path: The profile that was written, or that the devices are read from; "" for many.
        speeds: What encodings cost on the device that was asked for, one for each set of shapes.
        notes: Profiles of the user that cannot be read, and why.
    """

    devices: list[DeviceProfile]
    whole: bool = False
    path: str = ""
    speeds: list[EncodingSpeeds] = field(default_factory=list[EncodingSpeeds])
    notes: list[str] = field(default_factory=list[str])

    def headline(self) -> str:
        """How many there are."""
        return f"{len(self.devices)} devices"

    def tables(self) -> list[ResultTable]:
        """The devices, and every figure with its source where one profile is shown."""
        columns = ("target", "device", "memory for models>", "bandwidth>", "backends")
        rows = [
            (
                t.name,
                t.title,
                format_size(t.available.value),
                f"{format_size(t.bandwidth.value)}/s",
                ", ".join(b.name for b in t.backends.values()),
            )
            for t in self.devices
        ]
        listed = [ResultTable(columns=columns, rows=rows)]
        costs = [
            ResultTable(
                columns=encoding_speed.COST_COLUMNS,
                rows=encoding_speed.cost_rows(table.to_dict()),
                title=f"costs of encodings on {table.machine}, in microseconds",
            )
            for table in self.speeds
        ]
        return [*listed, *(_figures(t) for t in self.devices if self.whole), *costs]

    def to_dict(self) -> dict[str, Any]:
        """The devices as JSON has them."""
        return {
            "devices": [_device(t) for t in self.devices],
            "whole": self.whole,
            "path": self.path,
            "speeds": [table.to_dict() for table in self.speeds],
            "notes": self.notes,
        }


def _figures(target: DeviceProfile) -> ResultTable:
    rows = [(n, str(f.value), f.basis, f.source) for n, f in target.figures().items()]
    return ResultTable(
        columns=("figure", "value>", "basis", "source"), rows=rows, title=target.name
    )


def _device(target: DeviceProfile) -> dict[str, Any]:
    return {
        "name": target.name,
        "title": target.title,
        "memory": target.available.value,
        "figures": {
            name: {"value": f.value, "basis": f.basis, "source": f.source}
            for name, f in target.figures().items()
        },
        "backends": {
            b.name: {
                "operators": b.operators.name if b.operators else None,
                "date": b.operators.date if b.operators else None,
                "encodings": sorted(b.operators.matrices) if b.operators else [],
                "experts": sorted(b.operators.experts) if b.operators else [],
                "refused": sorted(b.operators.refused) if b.operators else [],
                "cache": sorted(b.operators.cache) if b.operators else [],
                "unavailable": b.unavailable,
                "instead": b.instead,
            }
            for b in target.backends.values()
        },
    }


def targets(
    name: str | None = None,
    *,
    measure: bool = False,
    speeds: str | Path | None = None,
    overwrite: bool = False,
) -> TargetsResult:
    """List the devices that `--target` takes, show one, or add this machine as one.

    Args:
        name: The device to show in full, or the name this machine gets; None: all.
        measure: Measure this machine, and write its profile to the configuration folder, with the
            costs of encodings that `bench` has measured here so far.
        speeds: A file of costs of encodings that `bench` exported on that device: from then on
            they are what its speed is predicted by.
        overwrite: Replace a profile of that name.

    Raises:
        UsageError: There is no such device, or no name was given to this machine.
        FormatError: The profile that was asked for, or the file of costs, is not right.
        OutputError: There is a profile of that name.
    """
    if measure and speeds is not None:
        raise UsageError("--measure and --speeds were given together", expected="one of them")
    if measure:
        return _add(name, overwrite=overwrite)
    if overwrite:
        raise UsageError("--overwrite alone does nothing", expected="--measure with it")
    if name is not None:
        if ":" in name:
            profiles.choose(name)
        return _one(name.partition(":")[0], speeds)
    if speeds is not None:
        raise UsageError("--speeds without a device", expected="kanna targets NAME --speeds FILE")
    devices, notes = list[DeviceProfile](), list[str]()
    for known in profiles.names():
        try:
            devices += profiles.devices(known)
        except FormatError as error:
            notes.append(f"{known}: {error.found}")
    return TargetsResult(devices=devices, notes=notes)


def _one(name: str, speeds: str | Path | None) -> TargetsResult:
    """One profile, or one device of it, with costs of encodings that it gets from a file."""
    known = name in profiles.files()
    devices = profiles.devices(name) if known else [profiles.device(name)]
    profile, path = devices[0].profile, ""
    if speeds is not None:
        table = encoding_speed.read(Path(speeds))
        runs = {format for backend in devices[0].backends.values() for format in backend.formats}
        if table.format not in runs:
            raise UsageError(
                f"{speeds} has costs in {table.format}",
                expected=f"of {' or '.join(sorted(runs))}, which {profile} is known to run",
                todo="name the file with --speeds of `kanna fit` and `kanna optimize`",
            )
        path = str(device_speeds.keep(profile, table))
    costs = list(device_speeds.tables(profile).values())
    return TargetsResult(devices=devices, whole=True, path=path, speeds=costs)


def _add(name: str | None, *, overwrite: bool) -> TargetsResult:
    if name is None or not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name for this machine" if name else "this machine was given no name",
            expected="small letters, digits and hyphens",
            todo="kanna targets my-laptop --measure",
        )
    path = profiles.own_folder() / f"{name}.yaml"
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists", todo="add --overwrite to replace it")
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(_this_machine(), sort_keys=False, allow_unicode=True, width=100)
    write_text(path, text)
    devices = profiles.devices(name)
    runs = [format for backend in devices[0].backends.values() for format in backend.formats]
    costs = [
        table
        for format in runs
        for table in measured_speed.all_of_this_machine(formats.get(format))
    ]
    for table in costs:
        device_speeds.keep(name, table)
    notes = [] if costs else [_NO_COSTS.format(name=name)]
    return TargetsResult(devices=devices, whole=True, path=str(path), speeds=costs, notes=notes)


def _this_machine() -> dict[str, Any]:
    """The profile of this machine."""
    here, space, threads = cpu(), memory(), default_threads()

    def measured(value: object, source: str) -> dict[str, object]:
        return {"value": value, "basis": "measured", "source": source}

    constants = "kanna's measurements of llama.cpp with 2 to 8-bit files on other machines"
    flops = round(2 * weights_per_second() * threads / 1e9, 1)
    return {
        "title": here.model,
        "memory": {
            f"{round(space.total / (1 << 30)) or 1}gb": {
                "total": measured(f"{space.total}B", "this machine"),
                "available": measured(f"{space.available}B", "free when it was measured"),
            }
        },
        "bandwidth": measured(f"{round(bandwidth())}B", f"read by {threads} threads"),
        "cores": measured(here.cores, "this machine"),
        "context": {"value": 4096, "basis": "assumed", "source": "what kanna fit takes"},
        "backends": {
            "cpu": {
                "operators": "CPU",
                "efficiency": {"value": EFFICIENCY, "basis": "derived", "source": constants},
                "error": {"value": 0.3, "basis": "assumed", "source": "one kind of machine"},
                "gigaflops": {"value": flops, "basis": "derived", "source": constants},
            }
        },
    }

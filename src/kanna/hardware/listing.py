"""The verb `targets`: devices that models can be made for, and this machine as one of them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from kanna._util.atomic import write_text
from kanna._util.results import Result, ResultTable
from kanna._util.units import format_size
from kanna.errors import FormatError, OutputError, UsageError
from kanna.hardware import EFFICIENCY, weights_per_second
from kanna.hardware import targets as profiles
from kanna.hardware.cpu import cpu, default_threads
from kanna.hardware.memory import bandwidth, memory
from kanna.hardware.targets import DeviceProfile

__all__ = ["TargetsResult", "targets"]

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TargetsResult(Result):
    """Devices.

    Attributes:
        devices: All of them, or those of the profile that was asked for.
        whole: Whether every figure is to be shown.
        path: The profile that was written, or that the devices are read from; "" for many.
        notes: Profiles of the user that cannot be read, and why.
    """

    devices: list[DeviceProfile]
    whole: bool = False
    path: str = ""
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
        return [*listed, *(_figures(t) for t in self.devices if self.whole)]

    def to_dict(self) -> dict[str, Any]:
        """The devices as JSON has them."""
        return {
            "devices": [_device(t) for t in self.devices],
            "whole": self.whole,
            "path": self.path,
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
            }
            for b in target.backends.values()
        },
    }


def targets(
    name: str | None = None, *, measure: bool = False, overwrite: bool = False
) -> TargetsResult:
    """List the devices that `--target` takes, show one, or add this machine as one.

    Args:
        name: The device to show in full, or the name this machine gets; None: all.
        measure: Measure this machine, and write its profile to the configuration folder.
        overwrite: Replace a profile of that name.

    Raises:
        UsageError: There is no such device, or no name was given to this machine.
        FormatError: The profile that was asked for is not right.
        OutputError: There is a profile of that name.
    """
    if measure:
        return _add(name, overwrite=overwrite)
    if overwrite:
        raise UsageError("--overwrite alone does nothing", expected="--measure with it")
    if name is not None:
        plain = name.partition(":")[0]
        if plain in profiles.files():
            devices = profiles.devices(plain)
        else:
            devices = [profiles.device(plain)]
        if ":" in name:
            profiles.choose(name)
        return TargetsResult(devices=devices, whole=True)
    devices, notes = list[DeviceProfile](), list[str]()
    for known in profiles.names():
        try:
            devices += profiles.devices(known)
        except FormatError as error:
            notes.append(f"{known}: {error.found}")
    return TargetsResult(devices=devices, notes=notes)


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
    return TargetsResult(devices=profiles.devices(name), whole=True, path=str(path))


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

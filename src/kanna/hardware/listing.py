"""Devices that models can be made for, as the verb `targets` shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kanna._util.results import Result, ResultTable
from kanna._util.units import format_size
from kanna.hardware import encoding_speed
from kanna.hardware.encoding_speed import EncodingSpeeds
from kanna.hardware.targets import DeviceProfile

__all__ = ["TargetsResult"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TargetsResult(Result):
    """Devices.

    Attributes:
        devices: All of them, or those of the profile that was asked for.
        whole: Whether every figure is to be shown.
        path: The file that was written; "" where none was.
        speeds: What encodings cost on the device that was asked for: a table for each format,
            backend and set of shapes.
        runs: Names of the formats that each backend of that device runs, by its profile or as
            measured.
        notes: Profiles of the user that cannot be read, and why; what was not measured here, or
            beside other work.
    """

    devices: list[DeviceProfile]
    whole: bool = False
    path: str = ""
    speeds: list[EncodingSpeeds] = field(default_factory=list[EncodingSpeeds])
    runs: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
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
                title=encoding_speed.cost_title(table.to_dict()),
            )
            for table in self.speeds
        ]
        return [*listed, *(_figures(t) for t in self.devices if self.whole), *costs]

    def to_dict(self) -> dict[str, Any]:
        """The devices as JSON has them."""
        return {
            "devices": [_device(t, self.runs) for t in self.devices],
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


def _device(target: DeviceProfile, runs: Mapping[str, Sequence[str]]) -> dict[str, Any]:
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
                "formats": list(runs.get(b.name, b.formats)),
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

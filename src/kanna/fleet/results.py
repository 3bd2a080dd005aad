"""What the commands of an operator return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kanna._util.results import Result, ResultTable
from kanna._util.units import format_size


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class DeviceKey(Result):
    """A device, and the key it has from now on.

    Attributes:
        id: The device.
        key: The text of its key, which is stored nowhere; "" for a device that was removed.
    """

    id: str
    key: str

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return asdict(self)

    def headline(self) -> str:
        """The device; never its key, which would stay in a notebook."""
        return f"{self.id} has a key" if self.key else f"{self.id} was removed"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class FleetDevices(Result):
    """The devices of a fleet, each as the server has it."""

    devices: Sequence[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return {"devices": list(self.devices)}

    def headline(self) -> str:
        """How many, and how many have what they should."""
        current = sum(1 for one in self.devices if one["reported"] == one["wanted"])
        return f"{len(self.devices)} devices, {current} have what they should"

    def tables(self) -> Sequence[ResultTable]:
        """A row per device."""
        rows = [
            (one["id"], one["target"], (one["reported"] or "")[:12], one["outcome"], one["detail"])
            for one in self.devices
        ]
        return [ResultTable(columns=("device", "target", "has", "last", ""), rows=rows)]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PublishedModel(Result):
    """What can be rolled out now.

    Attributes:
        digest: Names it.
        sequence: Larger than that of everything published before.
        name: For people.
        file_bytes: Of all files.
        sent_bytes: Of those that the server did not have.
        signed: Whether its manifest has a signature.
    """

    digest: str
    sequence: int
    name: str
    file_bytes: int
    sent_bytes: int
    signed: bool

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return asdict(self)

    def headline(self) -> str:
        """What it is and how much was sent."""
        sent = f"{format_size(self.sent_bytes)} of {format_size(self.file_bytes)} sent"
        return f"{self.name}: {self.digest} ({sent}, {'signed' if self.signed else 'not signed'})"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RolloutStatus(Result):
    """One rollout, as the server has it."""

    rollout: dict[str, Any]

    @property
    def ok(self) -> bool:
        """Whether nothing stopped it."""
        return self.rollout["state"] != "stopped"

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return self.rollout

    def headline(self) -> str:
        """Its state."""
        why = f": {self.rollout['reason']}" if self.rollout["reason"] else ""
        ring = f"ring {self.rollout['ring']} of {len(self.rollout['rings'])}"
        return f"rollout {self.rollout['id']} is {self.rollout['state']}, {ring}{why}"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class FleetStatus(Result):
    """A fleet: devices, rollouts, what was published, what happened."""

    status: dict[str, Any]

    @property
    def ok(self) -> bool:
        """Whether the latest rollout was not stopped."""
        return not any(one["state"] == "stopped" for one in self.status["rollouts"][:1])

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return self.status

    def headline(self) -> str:
        """Numbers of devices, and the latest rollout."""
        latest = [RolloutStatus(rollout=one).headline() for one in self.status["rollouts"][:1]]
        counts = f"{self.status['devices']} devices, {self.status['current']} current"
        return "; ".join([counts, *latest])

    def tables(self) -> Sequence[ResultTable]:
        """A row per rollout."""
        rows = [
            (one["id"], one["model"][:12], one["state"], one["ring"], one["reason"])
            for one in self.status["rollouts"]
        ]
        return [ResultTable(columns=("rollout>", "model", "state", "ring>", ""), rows=rows)]

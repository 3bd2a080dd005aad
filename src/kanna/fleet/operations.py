"""What operators do with a fleet, from any machine that reaches its server."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kanna import signing
from kanna._util.arguments import several
from kanna._util.bars import shown
from kanna._util.progress import Progress
from kanna.errors import UsageError
from kanna.fleet.connection import FleetConnection, FleetServer, quoted
from kanna.fleet.results import (
    DeviceKey,
    FleetDevices,
    FleetStatus,
    PublishedModel,
    RolloutStatus,
)
from kanna.fleet.rings import DEFAULT_RINGS, check_rings, parse_ring

_SLICE = 8 << 20
_HERE = FleetServer()


def add_device(
    name: str,
    *,
    server: FleetServer = _HERE,
    target: str = "",
    ring: int | None = None,
    days: float | None = None,
) -> DeviceKey:
    """Add a device; its key is in the result and nowhere else.

    Args:
        name: Letters, digits, `.`, `_` and `-`.
        server: Where the fleet is.
        target: What it is, such as `raspberry-pi-5`.
        ring: The ring it is always in, counted from 1; None: its share decides.
        days: Days until its key expires; None: never.

    Raises:
        KannaError: The server refuses, or is not there.
    """
    body = {"id": name, "target": target, "ring": ring, "days": days}
    return DeviceKey(**FleetConnection(server).ask("POST", "/v1/devices", body))


def renew_key(name: str, *, server: FleetServer = _HERE, days: float | None = None) -> DeviceKey:
    """Give a device another key; its old one is refused from now on.

    Args:
        name: The device.
        server: Where the fleet is.
        days: Days until the key expires; None: never.

    Raises:
        KannaError: The server refuses, or is not there.
    """
    path = f"/v1/devices/{quoted(name)}/key"
    return DeviceKey(**FleetConnection(server).ask("POST", path, {"days": days}))


def remove_device(name: str, *, server: FleetServer = _HERE) -> DeviceKey:
    """Forget a device and its key.

    Args:
        name: The device.
        server: Where the fleet is.

    Raises:
        KannaError: The server refuses, or is not there.
    """
    FleetConnection(server).ask("DELETE", f"/v1/devices/{quoted(name)}")
    return DeviceKey(id=name, key="")


def devices(*, server: FleetServer = _HERE) -> FleetDevices:
    """List devices, with what each has and should have.

    Args:
        server: Where the fleet is.

    Raises:
        KannaError: The server refuses, or is not there.
    """
    connection = FleetConnection(server)
    rows: list[dict[str, Any]] = []
    while True:
        after = quoted(rows[-1]["id"]) if rows else ""
        more = connection.ask("GET", f"/v1/devices?after={after}")["devices"]
        rows += more
        if not more:
            return FleetDevices(devices=rows)


def publish(
    artefact: str | Path,
    *,
    server: FleetServer = _HERE,
    name: str | None = None,
    sign_key: str | Path | None = None,
    progress: Progress | None = None,
) -> PublishedModel:
    """Send a model with its self-test to the server; a run that was cut goes on where it stopped.

    Args:
        artefact: A package with a self-test, or a model with one beside it.
        server: Where the fleet is.
        name: For people; None: that of the file.
        sign_key: A private key (PEM, P-256, P-384 or P-521) to sign its manifest with.
        progress: Told of what is hashed and sent.

    Raises:
        UsageError: There is no such model, or it has no self-test.
        KannaError: The server refuses, or is not there.
    """
    from kanna.fleet import collecting

    if sign_key is not None:
        signing.check_key(Path(sign_key))
    location, bars = Path(artefact), shown(progress)
    connection = FleetConnection(server)
    model, files = collecting.collect(location)
    latest = connection.ask("GET", "/v1/status")["artefacts"][:1]
    # The time, so that a server that was set up again, or from a copy, takes up no old numbers.
    sequence = max(int(time.time()), latest[0]["sequence"] + 1 if latest else 1)
    described = collecting.written(name or location.name, sequence, model, files, bars)
    signature = collecting.signature_of(described, Path(sign_key)) if sign_key else None
    sent = 0
    bars.start("send", described.size)
    for file in described.files:
        sent += _send(connection, files[file.path], file.sha256, bars)
    bars.finish()
    body = {"manifest": described.data.decode(), "signature": signature}
    connection.ask("POST", "/v1/artefacts", body)
    return PublishedModel(
        digest=described.digest,
        sequence=sequence,
        name=described.name,
        file_bytes=described.size,
        sent_bytes=sent,
        signed=signature is not None,
    )


def _send(connection: FleetConnection, path: Path, digest: str, progress: Progress) -> int:
    """Send what the server lacks of a file; bytes that were sent."""
    state = connection.ask("GET", f"/v1/uploads/{digest}")
    size, sent = path.stat().st_size, 0
    progress.advance(state["have"])
    with path.open("rb") as file:
        while not state["complete"]:
            file.seek(state["have"])
            data = file.read(_SLICE)
            place = f"/v1/uploads/{digest}?size={size}&offset={state['have']}"
            state = connection.ask("PUT", place, data)
            sent += len(data)
            progress.advance(len(data), path.name)
    return sent


def rollout(
    artefact: str = "",
    *,
    server: FleetServer = _HERE,
    ring: str | Sequence[str] = DEFAULT_RINGS,
    target: str = "",
) -> RolloutStatus:
    """Begin to bring what was published to devices, ring by ring.

    Args:
        artefact: Digest of what was published, or the beginning of it; empty: the latest.
        server: Where the fleet is.
        ring: `PERCENT%[:passes=SHARE%][:failures=N][:soak=TIME][:silent=TIME]` each: devices that
            have their turn, how many must pass and may fail, for how long that must hold, and
            after how long without a word one has failed.
        target: Devices of one target alone.

    Raises:
        UsageError: A ring is none, or nothing of that digest was published.
        KannaError: The server refuses, or is not there.
    """
    rings = [parse_ring(text) for text in several(ring) or DEFAULT_RINGS]
    check_rings(rings)
    connection = FleetConnection(server)
    body = {
        "model": find_published(connection, artefact),
        "target": target,
        "rings": [one.to_dict() for one in rings],
    }
    return RolloutStatus(rollout=connection.ask("POST", "/v1/rollouts", body))


def find_published(connection: FleetConnection, beginning: str) -> str:
    """The digest that begins so, the latest where it is empty; raises UsageError."""
    if len(beginning) == 64:
        return beginning
    known = connection.ask("GET", "/v1/status")["artefacts"]
    matching = [one["digest"] for one in known if one["digest"].startswith(beginning)]
    if not matching or (beginning and len(matching) > 1):
        raise UsageError(
            f"{len(matching)} of what was published begins with {beginning!r}",
            expected="the digest that kanna fleet publish printed",
        )
    return matching[0]


def pause(number: int, *, server: FleetServer = _HERE) -> RolloutStatus:
    """Offer a rollout to no further device until it is resumed.

    Args:
        number: Of the rollout.
        server: Where the fleet is.

    Raises:
        KannaError: The server refuses, or is not there.
    """
    return _change(number, "pause", server)


def resume(number: int, *, server: FleetServer = _HERE) -> RolloutStatus:
    """Go on with a rollout that was paused.

    Args:
        number: Of the rollout.
        server: Where the fleet is.

    Raises:
        KannaError: The server refuses, or is not there.
    """
    return _change(number, "resume", server)


def rollback(number: int, *, server: FleetServer = _HERE) -> RolloutStatus:
    """End a rollout; its devices go back to what they had before.

    Args:
        number: Of the rollout.
        server: Where the fleet is.

    Raises:
        KannaError: The server refuses, or is not there.
    """
    return _change(number, "rollback", server)


def _change(number: int, action: str, server: FleetServer) -> RolloutStatus:
    path = f"/v1/rollouts/{number}/{action}"
    return RolloutStatus(rollout=FleetConnection(server).ask("POST", path, {}))


def status(*, server: FleetServer = _HERE) -> FleetStatus:
    """Show devices, rollouts, what was published and what happened last.

    Args:
        server: Where the fleet is.

    Raises:
        KannaError: The server refuses, or is not there.
    """
    return FleetStatus(status=FleetConnection(server).ask("GET", "/v1/status"))

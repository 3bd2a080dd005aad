"""A fleet of devices: rollouts of models that quality stops.

`serve` keeps devices, models and rollouts; `kanna.agent` runs on each device; the others are what
operators do.
"""

from __future__ import annotations

from kanna.fleet.connection import FleetServer
from kanna.fleet.exporting import manifests
from kanna.fleet.operations import (
    add_device,
    devices,
    pause,
    publish,
    remove_device,
    renew_key,
    resume,
    rollback,
    rollout,
    status,
)
from kanna.fleet.server import FleetListener, serve

__all__ = [
    "FleetListener",
    "FleetServer",
    "add_device",
    "devices",
    "manifests",
    "pause",
    "publish",
    "remove_device",
    "renew_key",
    "resume",
    "rollback",
    "rollout",
    "serve",
    "status",
]

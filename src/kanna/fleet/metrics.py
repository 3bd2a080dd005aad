"""Prometheus metrics of a fleet: labels are outcomes, states and numbers of rollouts alone."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

from kanna.fleet.decision import DONE, PAUSED, RUNNING
from kanna.fleet.store import FleetStore

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class FleetMetrics:
    """Every metric, in a registry of its own; the texts say what each counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.polls = self._counter("polls", "Times that devices asked.")
        self.poll_seconds = Histogram(
            "kanna_fleet_poll_seconds",
            "From the request of a device to its answer.",
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.reports = self._counter("reports", "Reports of devices.", "outcome")
        self.refused = self._counter("refused", "Requests that were refused.", "status")
        self.ended = self._counter("rollouts_ended", "Rollouts that ended.", "state")
        self._devices = self._gauge("devices", "Devices.")
        self._seen = self._gauge("devices_seen", "Devices that asked within the last minutes.")
        self._current = self._gauge("devices_current", "Devices that have what they should.")
        self._statuses = self._gauge(
            "assignments",
            "Devices of rollouts under way, and of the last one.",
            "rollout",
            "status",
        )
        self._ring = self._gauge("ring", "The open ring of rollouts under way.", "rollout")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"kanna_fleet_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"kanna_fleet_{name}", text, labels, registry=self.registry)

    def update(self, store: FleetStore, lately: float) -> None:
        """Read the gauges.

        Args:
            store: Has devices and rollouts.
            lately: Seconds within which a device that asked counts as seen.
        """
        devices, seen, current = store.count_devices(time.time() - lately)
        self._devices.set(devices)
        self._seen.set(seen)
        self._current.set(current)
        self._statuses.clear()
        self._ring.clear()
        for rollout in [*store.rollouts_in((RUNNING, PAUSED)), *store.rollouts(1)]:
            number = str(rollout.id)
            counts: dict[str, int] = {}
            for (_, status), count in store.statuses(rollout.id).items():
                counts[status] = counts.get(status, 0) + count
            for status, count in counts.items():
                self._statuses.labels(number, status).set(count)
            if rollout.state != DONE:
                self._ring.labels(number).set(rollout.ring + 1)

    def exposition(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self.registry)

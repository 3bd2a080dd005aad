"""Prometheus metrics of the gateway.

Labels are the model and the key's id: never anything a client wrote. Histograms have the buckets
of what people wait for: 5 ms to 2 minutes. Inter-token times are per event of a stream; llama.cpp
sends one event per token.
"""

from __future__ import annotations

from typing import TypeVar, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

from kanna.escaping import visible

_REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TOKEN_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)

M = TypeVar("M", Counter, Gauge, Histogram)


class Metrics:
    """Every metric, in a registry of its own; the texts say what each counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._series: dict[tuple[object, ...], Counter | Gauge | Histogram] = {}
        self._define_requests()
        self._define_engines()

    def _define_requests(self) -> None:
        self.requests = self._counter("requests", "Requests to a model.", "model", "key")
        self.errors = self._counter(
            "errors",
            "Requests to a model that ended in an error of ours or its engine's.",
            "model",
            "key",
        )
        self.refused = self._counter(
            "refused", "Requests refused before an engine saw them.", "status"
        )
        self.tokens = self._counter(
            "tokens", "Tokens read (prompt) and generated (completion).", "model", "key", "kind"
        )
        self.time_to_first_token = self._histogram(
            "ttft_seconds",
            "From the request to the first token of its stream.",
            _REQUEST_BUCKETS,
        )
        self.inter_token_time = self._histogram(
            "inter_token_seconds", "Between two events of a stream.", _TOKEN_BUCKETS
        )
        self.request_time = self._histogram(
            "request_seconds", "From the request to the end of its answer.", _REQUEST_BUCKETS
        )
        self.canary_compared = self._counter(
            "canary_compared", "Next tokens compared with a canary's.", "model", "agreed"
        )
        self.canary_taken_back = self._counter("canary_taken_back", "Canaries taken back.", "model")

    def _define_engines(self) -> None:
        self.restarts = self._counter(
            "engine_restarts", "Engines that died and were started again.", "model", "role"
        )
        self.running = self._gauge("requests_running", "Requests at the engine.", "model")
        self.waiting = self._gauge(
            "queue_depth", "Requests that wait for a turn at the engine.", "model"
        )
        self.resident_memory = self._gauge(
            "memory_bytes", "Resident memory of a model's processes.", "model"
        )
        self.busy_slots = self._gauge("batch_size", "Slots of the engine at work.", "model")
        self.kv_used_ratio = self._gauge(
            "kv_used_ratio", "Tokens in the engine's slots by what they can hold.", "model"
        )
        self.memory_used = self._gauge(
            "memory_used_bytes", "Memory of loaded models by the arithmetic of kanna fit."
        )
        self.memory_budget = self._gauge(
            "memory_budget_bytes", "Memory that loaded models may take together."
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"kanna_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"kanna_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"kanna_{name}", text, ["model"], buckets=buckets, registry=self.registry)

    def series(self, metric: M, *labels: str) -> M:
        """`metric.labels(*labels)`, remembered: looking one up takes a lock and a tuple."""
        key = (id(metric), *labels)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = metric.labels(*map(visible, labels))
        return cast("M", series)

    def initialize(self, model: str) -> None:
        """Put every series that has the model alone for a label at 0.

        What has not happened yet is no gap in a graph.
        """
        for histogram in (self.time_to_first_token, self.inter_token_time, self.request_time):
            self.series(histogram, model)
        for gauge in (
            self.running,
            self.waiting,
            self.resident_memory,
            self.busy_slots,
            self.kv_used_ratio,
        ):
            self.series(gauge, model)
        self.series(self.restarts, model, "generate")

    def count_restart(self, model: str, role: str) -> None:
        """An engine died and is started again."""
        self.series(self.restarts, model, role).inc()

    def exposition(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self.registry)

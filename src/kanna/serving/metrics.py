"""Prometheus metrics of the gateway.

Labels are the model and the key's id: never anything a client wrote.

Histograms have the buckets of what people wait for: 5 ms to 2 minutes. Inter-token times are per
event of a stream; llama.cpp sends one event per token.
"""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

_WAITS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_GAPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """Every metric, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"kanna_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"kanna_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"kanna_{name}", text, ["model"], buckets=buckets, registry=registry)

        self.requests = counter("requests", "Requests to a model.", "model", "key")
        self.errors = counter(
            "errors",
            "Requests to a model that ended in an error of ours or its engine's.",
            "model",
            "key",
        )
        self.refused = counter("refused", "Requests refused before an engine saw them.", "status")
        self.tokens = counter(
            "tokens", "Tokens read (prompt) and generated (completion).", "model", "key", "kind"
        )
        self.restarts = counter(
            "engine_restarts", "Engines that died and were started again.", "model", "role"
        )
        self.first_token = histogram(
            "ttft_seconds", "From the request to the first token of its stream.", _WAITS
        )
        self.between_tokens = histogram(
            "inter_token_seconds", "Between two events of a stream.", _GAPS
        )
        self.whole = histogram(
            "request_seconds", "From the request to the end of its answer.", _WAITS
        )
        self.running = gauge("requests_running", "Requests at the engine.", "model")
        self.waiting = gauge("queue_depth", "Requests that wait for a turn at the engine.", "model")
        self.memory = gauge("memory_bytes", "Resident memory of a model's processes.", "model")
        self.batch = gauge("batch_size", "Slots of the engine at work.", "model")
        self.kv_used = gauge(
            "kv_used_ratio", "Tokens in the engine's slots by what they can hold.", "model"
        )
        self.memory_used = gauge(
            "memory_used_bytes", "Memory of loaded models by the arithmetic of kanna fit."
        )
        self.memory_budget = gauge(
            "memory_budget_bytes", "Memory that loaded models may take together."
        )
        self.canary_compared = counter(
            "canary_compared", "Next tokens compared with a canary's.", "model", "agreed"
        )
        self.canary_taken_back = counter("canary_taken_back", "Canaries taken back.", "model")
        self._children: dict[tuple[Any, ...], Any] = {}

    def of(self, metric: Any, *labels: str) -> Any:
        """`metric.labels(*labels)`, remembered.

        Looking one up takes a lock and a tuple each time.
        """
        at = (id(metric), *labels)
        found = self._children.get(at)
        if found is None:
            found = self._children[at] = metric.labels(*labels)
        return found

    def begin(self, model: str) -> None:
        """Every series that has the model alone for a label, at 0.

        What has not happened yet is no gap in a graph.
        """
        for metric in (
            self.first_token,
            self.between_tokens,
            self.whole,
            self.running,
            self.waiting,
            self.memory,
            self.batch,
            self.kv_used,
        ):
            self.of(metric, model)
        self.of(self.restarts, model, "generate")

    def restarted(self, model: str, role: str) -> None:
        self.of(self.restarts, model, role).inc()

    def text(self) -> bytes:
        return generate_latest(self.registry)

"""Prometheus metrics of the gateway. Labels are the model, the key's id and the verdict: never anything a client wrote.

Histograms have the buckets of what people wait for: 5 ms to 2 minutes. Inter-token times are per event of a stream;
llama.cpp sends one event per token.
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

        self.requests = counter("requests", "Requests by outcome.", "model", "key", "endpoint", "status")
        self.refused = counter("refused", "Requests refused before an engine saw them.", "reason")
        self.prompt_tokens = counter("prompt_tokens", "Tokens of prompts.", "model", "key")
        self.completion_tokens = counter("completion_tokens", "Tokens generated.", "model", "key")
        self.cancelled = counter("cancelled", "Answers that the client did not wait for.", "model")
        self.restarts = counter("engine_restarts", "Engines that died and were started again.", "model", "role")
        self.queue_wait = histogram("queue_wait_seconds", "Wait for a turn at the engine.", _WAITS)
        self.first_token = histogram("time_to_first_token_seconds", "From the request to its first token.", _WAITS)
        self.between_tokens = histogram("inter_token_seconds", "Between two events of a stream.", _GAPS)
        self.whole = histogram("request_seconds", "From the request to the end of its answer.", _WAITS)
        self.running = gauge("requests_running", "Requests at the engine.", "model")
        self.waiting = gauge("requests_waiting", "Requests in the queue.", "model")
        self.loaded = gauge("model_loaded", "1 when the model's engine is ready.", "model")
        self.memory = gauge("engine_memory_bytes", "Resident memory of a model's processes.", "model")
        self.memory_used = gauge("memory_used_bytes", "Memory of loaded models by the arithmetic of kanna fit.")
        self.memory_budget = gauge("memory_budget_bytes", "Memory that loaded models may take together.")
        self.kv_used = gauge("kv_cache_used_ratio", "Tokens in the slots of the engine by what they can hold.", "model")
        self.batch = gauge("batch_size", "Mean number of busy slots per decoding step.", "model")
        self.connections = gauge("connections", "Open client connections.")
        self.canary_agreement = gauge("canary_agreement_ratio", "Next tokens that the canary shares.", "model")
        self.canary_latency = gauge("canary_latency_ratio", "Canary's time to first token by the model's.", "model")
        self.canary_share = gauge("canary_share_ratio", "Share of requests that the canary answers.", "model")
        self.canary_rollbacks = counter("canary_rollbacks", "Canaries taken back.", "model")
        self._children: dict[tuple[Any, ...], Any] = {}

    def of(self, metric: Any, *labels: str) -> Any:
        """`metric.labels(*labels)`, remembered: looking one up takes a lock and a tuple each time."""
        at = (id(metric), *labels)
        found = self._children.get(at)
        if found is None:
            found = self._children[at] = metric.labels(*labels)
        return found

    def restarted(self, model: str, role: str) -> None:
        self.of(self.restarts, model, role).inc()

    def text(self) -> bytes:
        return generate_latest(self.registry)

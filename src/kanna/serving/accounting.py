"""What a request used, counted once however it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from kanna.serving.guard.keys import KeyUsage
from kanna.serving.guard.ledger import Ledger
from kanna.serving.guard.limits import RateLimiter
from kanna.serving.metrics import Metrics
from kanna.serving.model_call import ModelCall
from kanna.serving.problems import ApiError
from kanna.serving.traces import TraceExporter

_PATIENCE = 1.0
"""Seconds that an answer waits until its usage is committed."""


class Accounting:
    """Counts requests in metrics, limits, the ledger and traces.

    Args:
        metrics: Of the gateway.
        limiter: Of the keys.
        traces: Gets a span per request; None: no traces.
        context: Tokens that one choice can have.

    Attributes:
        ledger: Set when the gateway starts.
    """

    def __init__(
        self,
        metrics: Metrics,
        limiter: RateLimiter,
        traces: TraceExporter | None,
        *,
        context: int = 4096,
    ) -> None:
        self.metrics, self.limiter, self.traces = metrics, limiter, traces
        self.context = context
        self.ledger: Ledger | None = None

    def start(self, call: ModelCall) -> None:
        """Count a request that was admitted."""
        self.metrics.series(self.metrics.requests, call.model.name, call.key.id).inc()

    @asynccontextmanager
    async def recorded(self, call: ModelCall) -> AsyncGenerator[None]:
        """Reserve what may be used, and count what was used when the work inside ends.

        The usage is committed before the answer ends, or kept in memory where the file of usage is
        locked or the disk full.

        Raises:
            ApiError: 429: beside the requests of the key under way there is no room for it.
        """
        reservation = self.limiter.reserve(call.key, call.most_tokens(self.context))
        status = 200
        try:
            yield
        except ApiError as problem:
            status = problem.status
            raise
        except BaseException:
            status = call.client.cancelled_status
            raise
        finally:
            self.limiter.settle(reservation, call.usage.prompt + call.usage.completion)
            await asyncio.shield(self._record(call, status))

    async def _record(self, call: ModelCall, status: int) -> None:
        metrics, key, usage, model = self.metrics, call.key, call.usage, call.model.name
        seconds = time.perf_counter() - call.started
        metrics.series(metrics.request_time, model).observe(seconds)
        metrics.series(metrics.tokens, model, key.id, "prompt").inc(usage.prompt)
        metrics.series(metrics.tokens, model, key.id, "completion").inc(usage.completion)
        if status >= 500:
            metrics.series(metrics.errors, model, key.id).inc()
        if self.traces:
            attributes: dict[str, str | int] = {
                "gen_ai.request.model": model,
                "gen_ai.usage.input_tokens": usage.prompt,
                "gen_ai.usage.output_tokens": usage.completion,
                "kanna.key": key.id,
            }
            request = call.request
            self.traces.record(request.url.path, request.headers, seconds, status, attributes)
        assert self.ledger
        key_usage = KeyUsage(
            key=key.id,
            model=model,
            prompt_tokens=usage.prompt,
            completion_tokens=usage.completion,
        )
        audit_entry = {
            "key": key.id,
            "model": model,
            "status": status,
            "prompt_tokens": usage.prompt,
            "completion_tokens": usage.completion,
        }
        # A disk that stands still holds no answer: what waits is written when it goes on.
        await asyncio.wait({self.ledger.record(key_usage, audit_entry)}, timeout=_PATIENCE)

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


class Accounting:
    """Counts requests in metrics, limits, the ledger and traces.

    Attributes:
        ledger: Set when the gateway starts.
    """

    def __init__(
        self, metrics: Metrics, limiter: RateLimiter, traces: TraceExporter | None
    ) -> None:
        self.metrics, self.limiter, self.traces = metrics, limiter, traces
        self.ledger: Ledger | None = None

    def start(self, call: ModelCall) -> None:
        """Count a request that was admitted."""
        self.metrics.series(self.metrics.requests, call.model.name, call.key.id).inc()

    @asynccontextmanager
    async def recorded(self, call: ModelCall) -> AsyncGenerator[None]:
        """Count what was used when the work inside ends.

        The usage is committed before the answer ends.
        """
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
            await asyncio.shield(self._record(call, status))

    async def _record(self, call: ModelCall, status: int) -> None:
        metrics, key, usage, model = self.metrics, call.key, call.usage, call.model.name
        seconds = time.perf_counter() - call.started
        metrics.series(metrics.request_time, model).observe(seconds)
        metrics.series(metrics.tokens, model, key.id, "prompt").inc(usage.prompt)
        metrics.series(metrics.tokens, model, key.id, "completion").inc(usage.completion)
        if status >= 500:
            metrics.series(metrics.errors, model, key.id).inc()
        self.limiter.spend(key, usage.prompt + usage.completion)
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
        await self.ledger.record(key_usage, audit_entry)

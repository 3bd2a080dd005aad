"""A second artefact tried on a share of a model's traffic, and taken back by itself when it is worse.

Of the requests it answers, one at a time is asked again of both in the quiet: the next token of the same prompt, chosen
greedily. How often they agree and how long each takes is what it is judged by.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import statistics
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanna.errors import KannaError, UsageError
from kanna.serving import relay, toolcalls
from kanna.serving.problems import ApiError
from kanna.serving.relay import Used
from kanna.serving.settings import ModelSpec

if TYPE_CHECKING:
    from kanna.serving.backend import Backend
    from kanna.serving.pool import Pool, Served

LOG = logging.getLogger("kanna.serve")
ENOUGH = 20
"""Comparisons before anything is judged."""
FAILURES = 3
"""Requests in a row that it fails before it is taken back."""
_WAIT = 30.0


@dataclass(slots=True, kw_only=True)
class CanarySpec:
    """`[NAME=]PATH[@SHARE]`: what to try for which model on which share of its requests.

    other's

    Attributes:
        agreement: Least share of equal next tokens.
        slowdown: Most that its median time may be of the.
    """

    model: str
    path: Path
    share: float = 0.1
    agreement: float = 0.8
    slowdown: float = 1.5

    @classmethod
    def parse(cls, text: str, first: str, agreement: float, slowdown: float) -> CanarySpec:
        """Raises UsageError."""
        name, equal, rest = text.partition("=")
        path, at, share = (rest if equal else name).rpartition("@")
        if not at:
            path, share = share, "0.1"
        try:
            value = float(share)
        except ValueError:
            value = -1.0
        if not 0 < value <= 1:
            raise UsageError(
                f"the canary's share is {share!r}", expected="PATH@0.1: more than 0, at most 1"
            )
        if not Path(path).expanduser().exists():
            raise UsageError(f"the canary {path} does not exist")
        return cls(
            model=name if equal else first,
            path=Path(path).expanduser(),
            share=value,
            agreement=agreement,
            slowdown=slowdown,
        )


class Canary:
    """state: `loading`, `trying`, or `taken back` with the `reason`."""

    def __init__(self, pool: Pool, served: Served, spec: CanarySpec) -> None:
        self.pool, self.served, self.spec = pool, served, spec
        self.state, self.reason = "loading", ""
        self.compared = self.agreed = self.requests = 0
        self._label = f"canary:{served.name}"
        self._backend: Backend | None = None
        self._due = 0.0
        self._failed = 0
        self._times: deque[tuple[float, float]] = deque(maxlen=200)
        self._comparing: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None

    async def load(self) -> None:
        """Beside the model it is tried for; one that does not load is taken back at once."""
        from kanna.serving import engines

        spec = ModelSpec(name=self.served.name, path=self.spec.path)
        try:
            engine = engines.for_artefact(spec.path)
            self._backend = await self.pool.add_extra(self._label, spec, engine.name)
            self.state = "trying"
        except (ApiError, KannaError, OSError) as error:
            self._take_back(f"it does not load: {error}")

    def turn(self) -> Backend | None:
        """Where the next request goes: the canary's engine when it is its turn."""
        if self.state != "trying" or self._backend is None:
            return None
        main = self._backend.main
        if main.restarts >= FAILURES or main.state == "failed":
            self._take_back(f"its engine ended {main.restarts} times")
        if self.state != "trying" or main.state != "ready":
            return None
        self._due += self.spec.share
        if self._due < 1:
            return None
        self._due -= 1
        self.requests += 1
        return self._backend

    def failed(self, status: int) -> None:
        """How a request of its ended."""
        self._failed = self._failed + 1 if status >= 500 else 0
        if self._failed >= FAILURES:
            self._take_back(f"{FAILURES} requests in a row failed")

    def compare(self, path: str, body: dict[str, Any]) -> None:
        """Ask both for the next token, unless that is being done already."""
        if self.state == "trying" and (self._comparing is None or self._comparing.done()):
            self._comparing = asyncio.create_task(self._compare(path, dict(body)))

    async def _compare(self, path: str, body: dict[str, Any]) -> None:
        kept = ("model", "messages", "prompt", "tools", "tool_choice", "chat_template_kwargs")
        body = {k: v for k, v in body.items() if k in kept} | {
            "max_tokens": 1,
            "temperature": 0,
            "cache_prompt": False,
        }
        try:
            mine = await asyncio.wait_for(self._ask(self._backend, path, body), _WAIT)
            other = await asyncio.wait_for(self._ask(self.served.backend, path, body), _WAIT)
        except (ApiError, asyncio.TimeoutError):
            return
        if mine is None or other is None:
            return
        self.compared += 1
        self.agreed += mine[0] == other[0]
        self._times.append((mine[1], other[1]))
        metrics = self.pool.metrics
        metrics.of(
            metrics.canary_compared, self.served.name, "yes" if mine[0] == other[0] else "no"
        ).inc()
        self._judge()

    async def _ask(
        self, backend: Backend | None, path: str, body: dict[str, Any]
    ) -> tuple[str, float] | None:
        """What an engine says next, and the seconds it takes."""
        if backend is None:
            return None
        await backend.enter()
        try:
            body, _ = await toolcalls.prepared(backend, body)
            begun = time.perf_counter()
            found = json.loads(await relay.whole(backend, path, body, Used()))["choices"][0]
            said = found["message"] if "message" in found else found["text"]
            return json.dumps(said, sort_keys=True), time.perf_counter() - begun
        finally:
            backend.leave()

    def _judge(self) -> None:
        if self.compared < ENOUGH:
            return
        if (most := upper(self.agreed, self.compared)) < self.spec.agreement:
            found = f"{self.agreed} of {self.compared} next tokens agree (at most {most:.2f})"
            self._take_back(f"{found}, {self.spec.agreement:g} are asked")
            return
        mine, other = (statistics.median(t[i] for t in self._times) for i in (0, 1))
        if mine > other * self.spec.slowdown:
            self._take_back(
                f"it takes {mine / other:.2f} times as long, {self.spec.slowdown:g} are allowed"
            )

    def _take_back(self, reason: str) -> None:
        """From now on nothing goes to it; it is unloaded when its last request has ended."""
        if self.state == "taken back":
            return
        self.state, self.reason = "taken back", reason
        metrics = self.pool.metrics
        metrics.of(metrics.canary_taken_back, self.served.name).inc()
        LOG.warning("the canary of %s was taken back: %s", self.served.name, reason)
        self._ending = asyncio.create_task(self.pool.drop_extra(self._label))

    def status(self) -> dict[str, Any]:
        return {
            "path": str(self.spec.path),
            "share": self.spec.share,
            "state": self.state,
            "reason": self.reason,
            "requests": self.requests,
            "compared": self.compared,
            "agreed": self.agreed,
        }


def upper(hits: int, tries: int, z: float = 1.96) -> float:
    """Upper end of Wilson's 95 % interval of a share."""
    share = hits / tries
    middle = share + z * z / (2 * tries)
    spread = z * math.sqrt(share * (1 - share) / tries + z * z / (4 * tries * tries))
    return (middle + spread) / (1 + z * z / tries)

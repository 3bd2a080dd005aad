"""A second artefact tried on a share of a model's requests, and taken back when it is worse.

Of the requests it answers, one at a time is compared in the background: both artefacts are asked
for the next token of the same prompt, chosen greedily. How often they agree, and how long each
takes, decides.
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
from typing import Any

from kanna._util.nearest import absent
from kanna.errors import KannaError, NotFoundError, UsageError
from kanna.serving import engines, relay, tool_choice
from kanna.serving.arguments import split_name
from kanna.serving.backend import Backend
from kanna.serving.loader import ModelLoader
from kanna.serving.problems import ApiError
from kanna.serving.relay import TokenUsage
from kanna.serving.served_model import ServedModel
from kanna.serving.settings import ModelSpec
from kanna.sources import locate, references

LOG = logging.getLogger("kanna.serve")
MIN_COMPARISONS = 20
"""Comparisons before anything is decided."""
MAX_FAILURES = 3
"""Requests in a row that it fails before it is taken back."""
_PROMPT_FIELDS = ("model", "messages", "prompt", "tools", "tool_choice", "chat_template_kwargs")
_COMPARISON_TIME = 30.0
"""Seconds that either may take for a comparison."""
DEFAULT_SHARE = "0.1"


@dataclass(slots=True, kw_only=True)
class CanarySpec:
    """What to try, for which model and on which share of its requests.

    Attributes:
        model: Name of the model.
        path: The artefact to try.
        share: Of the model's requests.
        agreement: Least share of equal next tokens.
        slowdown: Most that its median time may be, in times the model's.
    """

    model: str
    path: Path
    share: float = 0.1
    agreement: float = 0.8
    slowdown: float = 1.5

    @classmethod
    def parse(cls, text: str, model: str, agreement: float, slowdown: float) -> CanarySpec:
        """Read `[NAME=]PATH[@SHARE]`.

        Args:
            text: As it stands on the command line.
            model: The model it is for when it names none.
            agreement: Least share of equal next tokens.
            slowdown: Most that its median time may be, in times the model's.

        Raises:
            UsageError: The share is no share, or the artefact does not exist.
        """
        name, artefact = split_name(text)
        path, at, share = artefact.rpartition("@")
        if not at or (not _is_number(share) and references.parse(artefact).kind != "path"):
            path, share = artefact, DEFAULT_SHARE
        try:
            value = float(share)
        except ValueError:
            value = -1.0
        if not 0 < value <= 1:
            raise UsageError(
                f"the canary's share is {share!r}", expected="PATH@0.1: more than 0, at most 1"
            )
        place = locate(path)
        if not place.exists():
            raise NotFoundError(f"the canary {absent(path)}")
        return cls(
            model=name or model,
            path=place,
            share=value,
            agreement=agreement,
            slowdown=slowdown,
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@dataclass(slots=True, frozen=True)
class _NextToken:
    """What an engine says next, and the seconds it takes."""

    text: str
    seconds: float


class Canary:
    """An artefact that is tried, and how it does.

    Attributes:
        state: `loading`, `trying` or `taken back`.
        reason: Why it was taken back.
        requests: How many went to it.
        compared: Next tokens that were compared.
        agreed: Those of them that were equal.
    """

    def __init__(self, loader: ModelLoader, model: ServedModel, spec: CanarySpec) -> None:
        self.loader, self.model, self.spec = loader, model, spec
        self.state, self.reason = "loading", ""
        self.compared = self.agreed = self.requests = 0
        self._label = f"canary:{model.name}"
        self._backend: Backend | None = None
        self._due = 0.0  # requests that should have gone to it and did not
        self._failures = 0
        self._times: deque[tuple[float, float]] = deque(maxlen=200)  # of it and of the model
        self._comparing: asyncio.Task[None] | None = None
        self._unloading: asyncio.Task[None] | None = None

    async def load(self) -> None:
        """Load it while the model stays loaded; one that does not load is taken back at once."""
        spec = ModelSpec(name=self.model.name, path=self.spec.path)
        try:
            engine = engines.for_artefact(spec.path)
            self._backend = await self.loader.add_extra(self._label, spec, engine)
            self.state = "trying"
        except (ApiError, KannaError, OSError) as error:
            self._take_back(f"it does not load: {error}")

    def take_request(self) -> Backend | None:
        """The canary's engine, when the next request should go there."""
        if self.state != "trying" or self._backend is None:
            return None
        main = self._backend.main
        if main.restarts >= MAX_FAILURES or main.state == "failed":
            self._take_back(f"its engine ended {main.restarts} times")
        if self.state != "trying" or main.state != "ready":
            return None
        self._due += self.spec.share
        if self._due < 1:
            return None
        self._due -= 1
        self.requests += 1
        return self._backend

    def record_status(self, status: int) -> None:
        """Count how one of its requests ended."""
        self._failures = self._failures + 1 if status >= 500 else 0
        if self._failures >= MAX_FAILURES:
            self._take_back(f"{MAX_FAILURES} requests in a row failed")

    def compare(self, path: str, body: dict[str, Any]) -> None:
        """Ask both for the next token, unless a comparison is under way."""
        if self.state == "trying" and (self._comparing is None or self._comparing.done()):
            self._comparing = asyncio.create_task(self._compare(path, dict(body)))

    async def _compare(self, path: str, body: dict[str, Any]) -> None:
        body = {k: v for k, v in body.items() if k in _PROMPT_FIELDS} | {
            "max_tokens": 1,
            "temperature": 0,
            "cache_prompt": False,
        }
        if self._backend is None or self.model.backend is None:
            return
        try:
            canary, model = [
                await asyncio.wait_for(_next_token(backend, path, body), _COMPARISON_TIME)
                for backend in (self._backend, self.model.backend)
            ]
        except (ApiError, asyncio.TimeoutError):
            return
        agreed = canary.text == model.text
        self.compared += 1
        self.agreed += agreed
        self._times.append((canary.seconds, model.seconds))
        metrics = self.loader.metrics
        label = "yes" if agreed else "no"
        metrics.series(metrics.canary_compared, self.model.name, label).inc()
        self._decide()

    def _decide(self) -> None:
        """Take it back when it surely agrees too rarely, or is too slow."""
        if self.compared < MIN_COMPARISONS:
            return
        if (most := wilson_upper(self.agreed, self.compared)) < self.spec.agreement:
            agreement = f"{self.agreed} of {self.compared} next tokens agree (at most {most:.2f})"
            self._take_back(f"{agreement}, {self.spec.agreement:g} are asked")
            return
        canary, model = (statistics.median(times[i] for times in self._times) for i in (0, 1))
        if canary > model * self.spec.slowdown:
            self._take_back(
                f"it takes {canary / model:.2f} times as long, {self.spec.slowdown:g} are allowed"
            )

    def _take_back(self, reason: str) -> None:
        """Send nothing to it any more, and unload it when its last request has ended."""
        if self.state == "taken back":
            return
        self.state, self.reason = "taken back", reason
        metrics = self.loader.metrics
        metrics.series(metrics.canary_taken_back, self.model.name).inc()
        LOG.warning("the canary of %s was taken back: %s", self.model.name, reason)
        self._unloading = asyncio.create_task(self.loader.drop_extra(self._label))

    def status(self) -> dict[str, Any]:
        """Its state and counts, as `/status` shows them."""
        return {
            "path": str(self.spec.path),
            "share": self.spec.share,
            "state": self.state,
            "reason": self.reason,
            "requests": self.requests,
            "compared": self.compared,
            "agreed": self.agreed,
        }


async def _next_token(backend: Backend, path: str, body: dict[str, Any]) -> _NextToken:
    await backend.acquire()
    try:
        body, _ = await tool_choice.prepare(backend, body)
        started = time.perf_counter()
        data = await relay.fetch(backend, path, body, TokenUsage())
        choice = json.loads(data)["choices"][0]
        content = choice["message"] if "message" in choice else choice["text"]
        return _NextToken(json.dumps(content, sort_keys=True), time.perf_counter() - started)
    finally:
        backend.release()


def wilson_upper(hits: int, tries: int, z: float = 1.96) -> float:
    """Upper end of Wilson's score interval of a share; z = 1.96 makes it the 95 % interval."""
    share = hits / tries
    middle = share + z * z / (2 * tries)
    spread = z * math.sqrt(share * (1 - share) / tries + z * z / (4 * tries * tries))
    return (middle + spread) / (1 + z * z / tries)

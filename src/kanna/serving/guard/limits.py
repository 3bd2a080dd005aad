"""How much each key may ask: requests and tokens per minute, tokens per day."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from kanna.serving.guard.store import DAY, Key
from kanna.serving.problems import ApiError


@dataclass(slots=True)
class Bucket:
    """Holds `size` at most and gets `size` back per minute.

    May go below zero: tokens are known only afterwards.
    """

    size: float
    level: float
    at: float

    def fill(self, now: float) -> None:
        self.level = min(self.size, self.level + (now - self.at) * self.size / 60)
        self.at = now

    def wait(self, amount: float) -> float:
        """Seconds until `amount` is there."""
        return max(0.0, (amount - self.level) * 60 / self.size)


class Limiter:
    """Counts in memory; the day's tokens start from what the store holds, so a restart forgets nothing of them."""

    def __init__(
        self, used_today: Callable[[int], dict[str, int]], clock: Callable[[], float] = time.time
    ) -> None:
        self._used_today, self._clock = used_today, clock
        self._buckets: dict[tuple[str, str], Bucket] = {}
        self._day = int(clock() // DAY)
        self._used = used_today(self._day)

    def admit(self, key: Key) -> None:
        """Take one request; raises ApiError 429 saying when to come back."""
        now = self._clock()
        if key.tokens_per_day is not None:
            self._turn(now)
            if self._used.get(key.id, 0) >= key.tokens_per_day:
                raise _too_many(
                    f"the key's {key.tokens_per_day} tokens per day are used up",
                    DAY - now % DAY,
                    "insufficient_quota",
                )
        if key.tokens_per_minute is not None:
            bucket = self._bucket(key.id, "tokens", key.tokens_per_minute, now)
            if bucket.level <= 0:
                raise _too_many(
                    f"more than {key.tokens_per_minute} tokens per minute", bucket.wait(1)
                )
        if key.requests_per_minute is not None:
            bucket = self._bucket(key.id, "requests", key.requests_per_minute, now)
            if bucket.level < 1:
                raise _too_many(
                    f"more than {key.requests_per_minute} requests per minute", bucket.wait(1)
                )
            bucket.level -= 1

    def spend(self, key: Key, tokens: int) -> None:
        """Count the tokens of a request."""
        now = self._clock()
        self._turn(now)
        self._used[key.id] = self._used.get(key.id, 0) + tokens
        if key.tokens_per_minute is not None:
            self._bucket(key.id, "tokens", key.tokens_per_minute, now).level -= tokens

    def _turn(self, now: float) -> None:
        """A new day begins at midnight UTC."""
        if int(now // DAY) != self._day:
            self._day = int(now // DAY)
            self._used = self._used_today(self._day)

    def _bucket(self, key: str, what: str, size: int, now: float) -> Bucket:
        bucket = self._buckets.get((key, what))
        if bucket is None or bucket.size != size:
            bucket = self._buckets[key, what] = Bucket(size, size, now)
        bucket.fill(now)
        return bucket


def _too_many(message: str, retry_after: float, code: str = "rate_limit_exceeded") -> ApiError:
    return ApiError(429, message, "rate_limit_error", code, retry_after=retry_after)

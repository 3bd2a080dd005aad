"""How much each key may use: requests and tokens per minute, tokens per day."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from kanna.serving.guard.keys import DAY, ApiKey
from kanna.serving.problems import ApiError


@dataclass(slots=True)
class TokenBucket:
    """A bucket that is refilled by its size per minute.

    Its level may be negative: a request's tokens are known only afterwards.

    Attributes:
        updated: When `level` was right, in seconds.
    """

    size: float
    level: float
    updated: float

    def refill(self, now: float) -> None:
        """Add what came since the last time."""
        self.level = min(self.size, self.level + (now - self.updated) * self.size / 60)
        self.updated = now

    def seconds_until(self, amount: float) -> float:
        """Seconds until the level is `amount`."""
        return max(0.0, (amount - self.level) * 60 / self.size)


class RateLimiter:
    """Holds keys to their limits, which it counts in memory.

    The day's tokens start from what the store has, so that a restart does not reset them.

    Args:
        tokens_of_day: Tokens of a day, in days since 1970, by the id of the key.
        clock: Seconds since 1970.
    """

    def __init__(
        self,
        tokens_of_day: Callable[[int], dict[str, int]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._tokens_of_day, self._clock = tokens_of_day, clock
        self._buckets: dict[tuple[str, str], TokenBucket] = {}
        self._day = int(clock() // DAY)
        self._tokens_today = tokens_of_day(self._day)

    def admit(self, key: ApiKey) -> None:
        """Count one request.

        Raises:
            ApiError: 429, with the time after which to try again.
        """
        now = self._clock()
        if key.tokens_per_day is not None:
            self._start_day(now)
            if self._tokens_today.get(key.id, 0) >= key.tokens_per_day:
                raise _too_many(
                    f"the key's {key.tokens_per_day} tokens per day are used up",
                    DAY - now % DAY,
                    "insufficient_quota",
                )
        if key.tokens_per_minute is not None:
            bucket = self._bucket(key.id, "tokens", key.tokens_per_minute, now)
            if bucket.level <= 0:
                raise _too_many(
                    f"more than {key.tokens_per_minute} tokens per minute", bucket.seconds_until(1)
                )
        if key.requests_per_minute is not None:
            bucket = self._bucket(key.id, "requests", key.requests_per_minute, now)
            if bucket.level < 1:
                raise _too_many(
                    f"more than {key.requests_per_minute} requests per minute",
                    bucket.seconds_until(1),
                )
            bucket.level -= 1

    def spend(self, key: ApiKey, tokens: int) -> None:
        """Count the tokens of a request."""
        now = self._clock()
        self._start_day(now)
        self._tokens_today[key.id] = self._tokens_today.get(key.id, 0) + tokens
        if key.tokens_per_minute is not None:
            self._bucket(key.id, "tokens", key.tokens_per_minute, now).level -= tokens

    def _start_day(self, now: float) -> None:
        """Begin a new day at midnight UTC."""
        if int(now // DAY) != self._day:
            self._day = int(now // DAY)
            self._tokens_today = self._tokens_of_day(self._day)

    def _bucket(self, key: str, kind: str, size: int, now: float) -> TokenBucket:
        bucket = self._buckets.get((key, kind))
        if bucket is None or bucket.size != size:
            bucket = self._buckets[key, kind] = TokenBucket(size, size, now)
        bucket.refill(now)
        return bucket


def _too_many(message: str, retry_after: float, code: str = "rate_limit_exceeded") -> ApiError:
    return ApiError(429, message, "rate_limit_error", code, retry_after=retry_after)

"""How much each key may use: requests and tokens per minute, tokens per day."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from kanna.serving.guard.keys import DAY, ApiKey
from kanna.serving.problems import ApiError

_USUAL_ANSWER = 512
"""Tokens for an answer of a key with limits, however little it may still use."""


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
        self.level = min(self.size, self.level + max(0.0, now - self.updated) * self.size / 60)
        self.updated = now

    def seconds_until(self, amount: float) -> float:
        """Seconds until the level is `amount`."""
        return max(0.0, (amount - self.level) * 60 / self.size)


class SteadyClock:
    """The time since 1970 that only goes on, whatever happens to the machine's clock.

    It starts at the machine's time and counts by the monotonic clock: a clock that is set back
    gives no second day and takes no minute away.

    Args:
        clock: Seconds since 1970, for tests; what it loses is not lost here. None: the machine's.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._read = clock or time.monotonic
        self._started, self._last, self._elapsed = (clock or time.time)(), self._read(), 0.0

    def now(self) -> float:
        """Seconds since 1970."""
        reading = self._read()
        self._elapsed += max(0.0, reading - self._last)
        self._last = reading
        return self._started + self._elapsed


@dataclass(slots=True, eq=False)
class Reservation:
    """Tokens that a request under way may use at most; they count until it is settled."""

    key: ApiKey
    tokens: int


class RateLimiter:
    """Holds keys to their limits, which it counts in memory.

    The day's tokens start from what the store has, so that a restart does not reset them. A request
    reserves what it may use before it works, and settles what it used: requests at the same time
    cannot share what is left. The last tokens of a day or minute are enough for one more request,
    as large as it may be.

    Args:
        tokens_of_day: Tokens of a day, in days since 1970, by the id of the key.
        clock: Seconds since 1970, for tests; None: a `SteadyClock`.
    """

    def __init__(
        self,
        tokens_of_day: Callable[[int], dict[str, int]],
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._clock = SteadyClock(clock)
        self._buckets: dict[tuple[str, str], TokenBucket] = {}
        self._reserved: Counter[str] = Counter()
        self._day = int(self._clock.now() // DAY)
        self._tokens_today = tokens_of_day(self._day)

    def now(self) -> float:
        """Seconds since 1970 by a clock that nobody can set back."""
        return self._clock.now()

    def admit(self, key: ApiKey) -> None:
        """Count one request.

        Raises:
            ApiError: 429, with the time after which to try again.
        """
        now = self.now()
        self._check_tokens(key, now, 0)
        if key.requests_per_minute is not None:
            bucket = self._bucket(key.id, "requests", key.requests_per_minute, now)
            if bucket.level < 1:
                raise _too_many(
                    f"more than {key.requests_per_minute} requests per minute",
                    bucket.seconds_until(1),
                )
            bucket.level -= 1

    def share(self, key: ApiKey) -> int | None:
        """How many tokens a request may generate that names no number; None: no limit of the key's.

        A quarter of what is neither used nor reserved, and 512 at least: an answer that long is
        usual, and the last tokens are enough for one more request.
        """
        now, free = self.now(), list[float]()
        if key.tokens_per_day is not None:
            self._start_day(now)
            free.append(key.tokens_per_day - self._tokens_today.get(key.id, 0))
        if key.tokens_per_minute is not None:
            free.append(self._bucket(key.id, "tokens", key.tokens_per_minute, now).level)
        if not free:
            return None
        return max(_USUAL_ANSWER, int(min(free) - self._reserved.get(key.id, 0)) // 4)

    def reserve(self, key: ApiKey, tokens: int) -> Reservation:
        """Set tokens aside for a request; `settle` gives back what it did not use.

        Args:
            key: Whose request it is.
            tokens: The most that it may use.

        Raises:
            ApiError: 429: with the requests under way there is no room for so many.
        """
        self._check_tokens(key, self.now(), tokens)
        self._reserved[key.id] += tokens
        return Reservation(key, tokens)

    def settle(self, reservation: Reservation, tokens: int) -> None:
        """Count the tokens of a request in place of what was reserved for it."""
        key = reservation.key
        self._reserved[key.id] -= reservation.tokens
        reservation.tokens = 0
        if self._reserved[key.id] <= 0:
            del self._reserved[key.id]
        now = self.now()
        self._start_day(now)
        self._tokens_today[key.id] = self._tokens_today.get(key.id, 0) + tokens
        if key.tokens_per_minute is not None:
            self._bucket(key.id, "tokens", key.tokens_per_minute, now).level -= tokens

    def _check_tokens(self, key: ApiKey, now: float, tokens: int) -> None:
        """Refuse where nothing is left, or too little for it beside the requests under way."""
        reserved = self._reserved.get(key.id, 0)
        if key.tokens_per_day is not None:
            self._start_day(now)
            left = key.tokens_per_day - self._tokens_today.get(key.id, 0)
            if left <= 0:
                raise _too_many(
                    f"the key's {key.tokens_per_day} tokens per day are used up",
                    DAY - now % DAY,
                    "insufficient_quota",
                )
            if reserved and left - reserved < max(1, tokens):
                raise _too_many(
                    f"the key's {key.tokens_per_day} tokens per day have no room for this beside "
                    "the requests under way",
                    1,
                )
        if key.tokens_per_minute is not None:
            bucket = self._bucket(key.id, "tokens", key.tokens_per_minute, now)
            if bucket.level <= 0 or (reserved and bucket.level - reserved < max(1, tokens)):
                raise _too_many(
                    f"more than {key.tokens_per_minute} tokens per minute",
                    max(1.0, bucket.seconds_until(1)),
                )

    def _start_day(self, now: float) -> None:
        """Begin a new day at midnight UTC, of which nobody has used anything."""
        if int(now // DAY) != self._day:
            self._day = int(now // DAY)
            self._tokens_today = {}

    def _bucket(self, key: str, kind: str, size: int, now: float) -> TokenBucket:
        bucket = self._buckets.get((key, kind))
        if bucket is None or bucket.size != size:
            bucket = self._buckets[key, kind] = TokenBucket(size, size, now)
        bucket.refill(now)
        return bucket


def _too_many(message: str, retry_after: float, code: str = "rate_limit_exceeded") -> ApiError:
    return ApiError(429, message, "rate_limit_error", code, retry_after=retry_after)

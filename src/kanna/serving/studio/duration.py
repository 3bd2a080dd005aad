"""How long a whole job takes still, from how long its steps took in an earlier job of its kind.

Without one, the shares that steps usually have of a job stand for it. What the steps of this job
have taken so far says how fast it is beside that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

Steps = Sequence[tuple[str, float]]
"""Names of steps, and seconds or shares, in order."""

_CHECKS: Steps = (("hash the source", 0.2), ("verify tensors", 0.7), ("verify logits", 1.0))
_MEASURED: Steps = (("write", 2.0), *_CHECKS, ("evaluate", 6.0), ("bench", 3.0))
_SEARCH: Steps = (("calibrate", 50.0), ("gradients", 27.0), ("measure", 15.0))
_PROBING: Steps = (("reference", 1.0), ("probe", 12.0))
_LONGEST: Steps = (("swaps", 40.0), ("teacher", 5.0), ("distill", 40.0), ("score", 2.0))
_AT_LEAST = 0.02
"""Part of a step that has to be done before it says how fast it is."""


def usual(verb: str, options: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The steps of a job that nothing is known of, and their shares.

    Args:
        verb: Of the job.
        options: Of the verb.
    """
    if verb == "convert":
        return [("write", 2.0), *(_CHECKS if options.get("verify") else ())]
    if verb == "compare":
        return [*_MEASURED] * max(1, len(options.get("presets", ())))
    effort = options.get("effort", "balanced")
    longer = [*(_PROBING if effort != "fast" else ()), *(_LONGEST if effort == "max" else ())]
    return [*_SEARCH, *longer, *_MEASURED]


def steps_of(state: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The finished steps of a job's progress."""
    return [(str(s["stage"]), float(s["seconds"])) for s in state.get("steps", ())]


def seconds_left(state: Mapping[str, Any], expected: Steps) -> float | None:
    """Seconds that a whole job takes still; None before anything says so.

    Args:
        state: Its progress.
        expected: Steps of a whole job of its kind.
    """
    done = steps_of(state)
    counts = Counter(name for name, _ in done)
    ahead: list[tuple[str, float]] = []
    begun: list[float] = []
    for name, seconds in expected:
        if counts[name]:
            counts[name] -= 1
            begun.append(seconds)
        else:
            ahead.append((name, seconds))
    now, elapsed = str(state.get("stage", "")), float(state.get("seconds", 0.0))
    part = _part(state)
    rest = 0.0
    current = next((pair for pair in ahead if pair[0] == now), None)
    if current is not None:
        ahead.remove(current)
        begun.append(current[1] * part)
    if part >= _AT_LEAST:
        rest = elapsed / part - elapsed
    spent = sum(seconds for _, seconds in done) + (elapsed if now else 0.0)
    expected_so_far = sum(begun)
    if not spent or not expected_so_far:
        return None
    pace = spent / expected_so_far
    if current is not None and part < _AT_LEAST:
        rest = max(0.0, current[1] * pace - elapsed)
    return rest + pace * sum(seconds for _, seconds in ahead)


def _part(state: Mapping[str, Any]) -> float:
    """How much of the present step is done, from 0 to 1."""
    done, total = state.get("done"), state.get("total")
    return min(1.0, done / total) if done and total else 0.0

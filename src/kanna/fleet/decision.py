"""What becomes of a rollout, from what its devices reported: a function of numbers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kanna.fleet.rings import Ring

RUNNING, PAUSED, STOPPED, DONE, BACK = "running", "paused", "stopped", "done", "rolled back"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What devices of one ring reported.

    Attributes:
        size: Devices in it.
        passed: Those whose self-test passed.
        failed: Those whose self-test failed, that refused what they were sent, or fell silent.
    """

    size: int = 0
    passed: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a rollout is from now on.

    Attributes:
        state: `running`, `stopped` or `done`.
        ring: The last ring whose devices may have the artefact, counted from 0.
        soaked: Seconds for which that ring has held.
        reason: Why it stopped.
    """

    state: str
    ring: int
    soaked: float
    reason: str = ""


def decide(
    rings: Sequence[Ring], tallies: Sequence[Tally], *, ring: int, soaked: float, elapsed: float
) -> Decision:
    """Stop a rollout, open its next ring, or leave it as it is.

    Failures of every ring count, also of those before: a device that was away may fail late.

    Args:
        rings: Of the rollout.
        tallies: What each of them reported.
        ring: The last one that is open, counted from 0.
        soaked: Seconds for which it has held.
        elapsed: Seconds since that was looked at last.
    """
    for number, (one, tally) in enumerate(zip(rings, tallies, strict=True), 1):
        if tally.failed > one.failures:
            reason = f"{tally.failed} of {tally.size} devices of ring {number} failed"
            allowed = f"at most {one.failures} may"
            return Decision(state=STOPPED, ring=ring, soaked=0.0, reason=f"{reason}, {allowed}")
    while True:
        tally = tallies[ring]
        if tally.passed < rings[ring].needed(tally.size):
            return Decision(state=RUNNING, ring=ring, soaked=0.0)
        soaked += elapsed
        if tally.size and soaked < rings[ring].soak:
            return Decision(state=RUNNING, ring=ring, soaked=soaked)
        if ring == len(rings) - 1:
            return Decision(state=DONE, ring=ring, soaked=soaked)
        ring, soaked, elapsed = ring + 1, 0.0, 0.0

"""What one stage takes, in CPU seconds and bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace

_WRITTEN_AT_ONCE = 0.5
"""Part of what is written that is waited for: the rest goes to the disk beside the work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a stage takes.

    Attributes:
        parallel: CPU seconds that go to all cores.
        alone: CPU seconds that do not.
        accelerated: Seconds of an accelerator, while the CPU waits.
        written: Bytes that go to the disk in all.
        memory: Bytes at most, of our own: pages of mapped files are not counted.
        disk: Bytes in the output folder at most while it runs.
        kept: Bytes of these that stay.
        cache: Bytes that are made in the cache folder.
        optional: Whether the run goes on without it where memory or disk do not suffice.
    """

    parallel: float = 0.0
    alone: float = 0.0
    accelerated: float = 0.0
    written: float = 0.0
    memory: float = 0.0
    disk: float = 0.0
    kept: float = 0.0
    cache: float = 0.0
    optional: bool = False

    @property
    def cpu(self) -> float:
        """CPU seconds."""
        return self.parallel + self.alone

    def times(self, passes: int) -> Work:
        """The same so many times over, one after another.

        Args:
            passes: What each leaves stays until the last is done, where there are several.
        """
        if passes == 1:
            return self
        return replace(
            self,
            parallel=passes * self.parallel,
            alone=passes * self.alone,
            accelerated=passes * self.accelerated,
            written=passes * self.written,
            disk=self.disk + passes * self.kept,
        )

    def seconds(self, threads: int, disk: float) -> float:
        """By the clock on the wall, on a machine with nothing else to do.

        Args:
            threads: Cores.
            disk: Bytes per second that it writes.
        """
        waited = _WRITTEN_AT_ONCE * self.written / disk
        return self.parallel / max(1, threads) + self.alone + self.accelerated + waited


@dataclass(frozen=True, slots=True, kw_only=True)
class StageForecast:
    """A stage before it begins.

    Attributes:
        stage: Its name.
        seconds: By the clock on the wall, on a machine with nothing else to do.
        cpu_seconds: Of all processors together.
        memory: Bytes at most.
        disk: Bytes in the output folder at most, with what stays of earlier stages.
        cache: Bytes that are made in the cache folder.
        note: Why it is left out; "" where it is not.
    """

    stage: str
    seconds: float
    cpu_seconds: float
    memory: int
    disk: int
    cache: int = 0
    note: str = ""

"""Probe of this machine: what `doctor` shows and what `fit` estimates speed from.

Nothing here raises: what cannot be learnt is left empty.
"""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from typing import Any

from kanna.hardware.accelerators import Accelerator, accelerators, loaders
from kanna.hardware.cpu import Cpu, cpu, default_threads
from kanna.hardware.disks import Disk, disks
from kanna.hardware.memory import Memory, bandwidth, memory
from kanna.hardware.threads import ThreadChoice, choose_threads

__all__ = [
    "EFFICIENCY",
    "Accelerator",
    "Cpu",
    "Disk",
    "Machine",
    "Memory",
    "ThreadChoice",
    "accelerators",
    "bandwidth",
    "choose_threads",
    "cpu",
    "default_threads",
    "disks",
    "estimate_tps",
    "memory",
    "probe",
    "weights_per_second",
]

# Share of the measured bandwidth that llama.cpp reaches; weights one core decodes and multiplies
# per second, by the width of its vectors; seconds per token that no weight accounts for. Measured
# with 2 to 8-bit files.
EFFICIENCY = 0.85
_WEIGHTS_PER_SECOND = {"avx512f": 12e9, "avx2": 9e9, "sve": 8e9, "asimddp": 6e9}
_OVERHEAD = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """This machine.

    Attributes:
        bandwidth: Of memory, in bytes per second.
        loaders: API → whether its system library is installed.
    """

    system: str
    python: str
    cpu: Cpu
    memory: Memory
    bandwidth: float
    disks: list[Disk]
    accelerators: list[Accelerator]
    loaders: dict[str, bool]

    def to_dict(self) -> dict[str, Any]:
        """The machine as JSON has it."""
        values = asdict(self)
        values["cpu"]["flags"] = sorted(self.cpu.flags)
        values["cpu"]["simd"] = self.cpu.simd
        return values


def probe() -> Machine:
    """Everything about this machine; takes about half a second, most of it measuring the memory."""
    return Machine(
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        cpu=cpu(),
        memory=memory(),
        bandwidth=bandwidth(),
        disks=disks(),
        accelerators=list(accelerators()),
        loaders=loaders(),
    )


def weights_per_second() -> float:
    """Weights that one core of this machine decodes and multiplies per second."""
    return next((r for flag, r in _WEIGHTS_PER_SECOND.items() if flag in cpu().flags), 3e9)


def estimate_tps(
    bytes_per_token: float,
    weights: float = 0,
    *,
    threads: int | None = None,
    per_second: float | None = None,
) -> float:
    """Estimate tokens per second on this CPU: the slower of memory and arithmetic decides.

    An estimate from a short probe: `bench` measures.

    Args:
        bytes_per_token: What each token reads.
        weights: What each token multiplies.
        threads: None: one per physical core.
        per_second: Bytes per second of the memory; None: measured.
    """
    rate = weights_per_second()
    memory_bound = bytes_per_token / (EFFICIENCY * (per_second or bandwidth()))
    return 1 / (_OVERHEAD + max(memory_bound, weights / (rate * (threads or default_threads()))))

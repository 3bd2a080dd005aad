"""The processor: model, SIMD flags, cores that this process may use."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """The processor.

    Attributes:
        model: As the maker names it.
        architecture: As `platform.machine` spells it, in lower case.
        flags: Lower case, as Linux spells them.
        cores: Physical.
        threads: Logical.
        usable: Logical CPUs that this process may run on (affinity and container quota).
    """

    model: str
    architecture: str
    flags: frozenset[str]
    cores: int
    threads: int
    usable: int

    @property
    def simd(self) -> list[str]:
        """The SIMD extensions that matter for language models, best first."""
        order = (
            "amx_int8 amx_bf16 avx512_bf16 avx512_vnni avx512vbmi avx512f avx_vnni avx2 fma f16c "
            "avx ssse3 sme sve2 sve i8mm asimddp asimdhp asimd neon"
        )
        return [flag for flag in order.split() if flag in self.flags]


def run(*command: str) -> str:
    """Standard output of a short command; empty when it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _quota() -> int | None:
    """Whole CPUs that the control group grants (cgroup 2, then 1); None when unlimited."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()[:2]
    except (OSError, ValueError):
        try:
            limit = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text().strip()
            period = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if limit in {"max", "-1"}:
        return None
    return max(1, round(int(limit) / int(period)))


def usable_cpus() -> int:
    """Logical CPUs that this process may use."""
    affinity = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    quota = _quota() if sys.platform == "linux" else None
    return min(affinity, quota) if quota else affinity


def parse_cpuinfo(text: str) -> tuple[str, frozenset[str], int]:
    """Model, flags and physical cores (0 when unknown) of /proc/cpuinfo on x86 and ARM."""
    # On x86 a number called `model` comes before the name; on ARM boards `Model` is the name.
    titles = (
        re.search(rf"(?m)^{title}\s*:\s*(.+)$", text)
        for title in ("model name", "Hardware", "Model")
    )
    model = next((m[1].strip() for m in titles if m), "")
    flags = re.search(r"(?im)^(?:flags|features)\s*:\s*(.+)$", text)
    places: set[tuple[str, str]] = set()
    for block in text.split("\n\n"):
        package, core = (
            re.search(r"(?m)^physical id\s*:\s*(\d+)", block),
            re.search(r"(?m)^core id\s*:\s*(\d+)", block),
        )
        if core:
            places.add((package[1] if package else "0", core[1]))
    return model, frozenset(flags[1].lower().split()) if flags else frozenset(), len(places)


@cache
def cpu() -> Cpu:
    """Probe the processor; what cannot be learnt is left empty, never guessed."""
    model, flags, cores = "", frozenset[str](), 0
    if _CPUINFO.exists():
        model, flags, cores = parse_cpuinfo(_CPUINFO.read_text(encoding="utf-8", errors="replace"))
    elif sys.platform == "darwin":
        model = run("sysctl", "-n", "machdep.cpu.brand_string").strip()
        listed = run("sysctl", "-n", "machdep.cpu.features", "machdep.cpu.leaf7_features").lower()
        arm = {m[1] for m in re.finditer(r"FEAT_(\w+): 1", run("sysctl", "hw.optional.arm"))}
        names = {
            "DotProd": "asimddp",
            "I8MM": "i8mm",
            "FP16": "asimdhp",
            "SME": "sme",
            "BF16": "bf16",
        }
        flags = frozenset(re.split(r"[\s]+", listed.replace("avx1.0", "avx"))) | {
            names[a] for a in arm if a in names
        }
        if platform.machine() == "arm64":
            flags |= {"asimd", "neon"}
        cores = int(run("sysctl", "-n", "hw.physicalcpu").strip() or 0)
    elif sys.platform == "win32":
        model = platform.processor()
    threads = os.cpu_count() or 1
    return Cpu(
        model=model or platform.processor() or platform.machine(),
        architecture=platform.machine().lower(),
        flags=flags - {""},
        cores=cores or _cores_by_psutil() or threads,
        threads=threads,
        usable=usable_cpus(),
    )


def _cores_by_psutil() -> int:
    import psutil

    return psutil.cpu_count(logical=False) or 0


def default_threads() -> int:
    """Threads for compute-bound work: one per physical core that this process may use."""
    processor = cpu()
    per_core = max(1, processor.threads // max(1, processor.cores))
    return max(1, -(-processor.usable // per_core))

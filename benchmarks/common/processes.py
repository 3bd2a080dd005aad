"""Commands in child processes of their own, with the time and memory that each takes."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil

Command = Sequence[str | Path]


@dataclass(frozen=True, slots=True)
class Run:
    """One child process: wall and CPU seconds, and peak anonymous and resident memory in bytes."""

    seconds: float
    cpu: float
    anonymous: int
    resident: int


def run(
    command: Command, *, children: bool = False, cwd: Path | None = None, **environment: str
) -> Run:
    """Run a command and watch its memory 100 times a second.

    Args:
        command: The program and its arguments.
        children: Count the memory of the processes it starts as well, at the same moment.
        cwd: Where it runs.
        environment: Variables besides those of this process.

    Raises:
        RuntimeError: It failed; the message ends with what it wrote to standard error.
    """
    anonymous = resident = finished = status = 0
    usage: resource.struct_rusage | None = None
    with tempfile.TemporaryFile() as log:
        start = time.perf_counter()
        # Installed packages have their bytecode; without this, a checkout would be compiled again
        # in every run.
        inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=subprocess.DEVNULL,
            stderr=log,
            env=inherited | environment,
            cwd=cwd,
        )
        watched = psutil.Process(process.pid)
        while not finished:
            with suppress(psutil.Error):
                below = watched.children(recursive=True) if children else []
                infos = [p.memory_info() for p in (watched, *below)]
                anonymous = max(anonymous, sum(i.rss - i.shared for i in infos))
                resident = max(resident, sum(i.rss for i in infos))
            time.sleep(0.01)
            finished, status, usage = os.wait4(process.pid, os.WNOHANG)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            text = log.read().decode(errors="replace")[-2000:]
            raise RuntimeError(f"{command[0]} failed ({process.returncode}):\n{text}")
    assert usage is not None
    return Run(seconds, usage.ru_utime + usage.ru_stime, anonymous, resident)


def python_module(name: str, *arguments: object) -> list[str | Path]:
    """Command that runs a module in this interpreter."""
    return [sys.executable, "-m", name, *map(str, arguments)]


def kanna(*arguments: object) -> list[str | Path]:
    """Command line of kanna itself, in this interpreter."""
    return python_module("kanna", *arguments, "--quiet")


def in_sequence(runs: Sequence[Run]) -> Run:
    """Several runs as one: times add up, the largest peak counts."""
    return Run(
        sum(r.seconds for r in runs),
        sum(r.cpu for r in runs),
        max(r.anonymous for r in runs),
        max(r.resident for r in runs),
    )


def run_all(commands: Sequence[Command]) -> Run:
    """Run commands one after another, as one."""
    return in_sequence([run(command) for command in commands])


def alternate(ours: Sequence[Command], theirs: Sequence[Command], repeats: int) -> tuple[Run, Run]:
    """Medians of alternating runs, after one of each that only warms the disk's cache."""
    pairs = [(run_all(ours), run_all(theirs)) for _ in range(repeats + 1)][1:]
    columns = ("seconds", "cpu", "anonymous", "resident")
    first, second = (
        Run(*(median(getattr(r, c) for r in side) for c in columns))
        for side in zip(*pairs, strict=True)
    )
    return first, second

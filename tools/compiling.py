"""Run a build with pip and show how far the compiler is; what pip says is kept for failures."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

STEP = re.compile(r"\[(\d+)/(\d+)\]")
"""How Ninja and Make number what they compile."""
_TAIL = 40
_PLAIN_STEPS = 5


def run(command: Sequence[str], what: str, environment: Mapping[str, str] | None = None) -> int:
    """Run a verbose pip and return its exit code.

    On a terminal one line is kept up to date; elsewhere some lines in all are printed.

    Args:
        command: What is run.
        what: What is compiled.
        environment: Variables besides those that are set.
    """
    begin = time.monotonic()
    process = subprocess.Popen(
        command,
        env=os.environ | {"PYTHONUNBUFFERED": "1"} | dict(environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    tail: list[str] = []
    terminal = sys.stdout.isatty()
    shown = 0
    for line in process.stdout:
        tail = [*tail[-_TAIL:], line]
        step = STEP.search(line)
        if step is None:
            continue
        done, total = int(step[1]), int(step[2])
        if not terminal and done != total and done - shown < total / _PLAIN_STEPS:
            continue
        shown = done
        text = f"  {what}: file {done} of {total}, {time.monotonic() - begin:.0f} s"
        print(f"\r{text}" if terminal else text, end="" if terminal else "\n", flush=True)
    if terminal and shown:
        print()
    if process.wait() != 0:
        print(f"{what} failed. Last lines:\n{''.join(tail)}", file=sys.stderr)
    return process.returncode

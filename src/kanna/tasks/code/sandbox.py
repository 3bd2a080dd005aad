"""Code of a model, run where it can do no harm: `jail.py` in a process of its own, watched."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kanna._util.interpreter import file_command
from kanna.errors import MissingError
from kanna.escaping import one_line

SECONDS = 3
"""Processor time of a program with all its calls; the slowest right answer takes a hundredth."""
WAIT = 10.0
"""Seconds by the clock, for one that sleeps and for a busy machine."""
MEMORY = 512 << 20
"""Bytes of address space."""
DISK = 4 << 20
"""Bytes of the disk in memory that it sees."""
LONGEST_ANSWER = 1 << 16
"""Bytes of JSON that are read of it."""
_LONGEST_REASON = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class CallResults:
    """What a program's functions gave.

    Attributes:
        problem: Why the program ended before it gave values; "" where it did not.
        values: What each call gave; none where there is a problem.
        errors: Why a call gave nothing, "" where it gave something.
    """

    problem: str = ""
    values: tuple[Any, ...] = ()
    errors: tuple[str, ...] = ()


def require() -> None:
    """Raise MissingError where this machine cannot lock code in: none of a model runs here then."""
    refused = _refusal()
    if refused:
        raise MissingError(
            f"code of a model cannot be locked in here ({refused}), so none is run",
            expected="Linux with namespaces for users, networks, processes and mounts",
            todo="leave the task `code` out, or run it where `unshare --user --net true` works "
            "(in a container: with its default seccomp profile off)",
        )


@cache
def _refusal() -> str:
    if sys.platform != "linux":
        return f"{sys.platform} has no namespaces"
    answer = _ask("def f(): return 1", ["f()"])
    return "" if answer.get("values") == [[1]] else one_line(answer.get("refused") or answer)


def run(program: str, calls: Sequence[str]) -> CallResults:
    """What calls give after a program ran; neither can read, write, send or start anything.

    Args:
        program: Python's text.
        calls: Expressions over the names that it defines.

    Raises:
        MissingError: Nothing can be locked in here.
    """
    require()
    answer = _ask(program, calls)
    values = answer.get("values")
    if not (isinstance(values, list) and len(values) == len(calls)):
        problem = answer.get("problem") or "the program ended without a value"
        return CallResults(problem=one_line(problem)[:_LONGEST_REASON])
    given = [value if isinstance(value, list) and len(value) == 1 else None for value in values]
    return CallResults(
        values=tuple(value[0] if value else None for value in given),
        errors=tuple(
            "" if own else one_line(value)[:_LONGEST_REASON]
            for own, value in zip(given, values, strict=True)
        ),
    )


def _ask(program: str, calls: Sequence[str]) -> dict[str, Any]:
    """The line that the locked process prints, or the problem it ended of."""
    task = json.dumps({"program": program, "calls": list(calls)})
    with tempfile.TemporaryDirectory(prefix="kanna-code-") as root:
        limits = {
            "root": root,
            "seconds": SECONDS,
            "memory": MEMORY,
            "disk": DISK,
            "answer": LONGEST_ANSWER,
        }
        child = subprocess.Popen(
            file_command(str(Path(__file__).with_name("jail.py")), json.dumps(limits)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=root,
            env={},
            start_new_session=True,  # Ctrl-C is answered here, and ends it below
        )
        try:
            return _exchange(child, task.encode())
        finally:
            child.kill()  # what it locked in ends with it
            for stream in (child.stdin, child.stdout):
                with suppress(OSError):
                    assert stream
                    stream.close()
            child.wait()


def _exchange(child: subprocess.Popen[bytes], task: bytes) -> dict[str, Any]:
    assert child.stdin and child.stdout
    with suppress(OSError):
        child.stdin.write(task)
        child.stdin.close()
    received = b""
    end = time.monotonic() + WAIT
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while len(received) <= LONGEST_ANSWER:
            if not selector.select(max(0.0, end - time.monotonic())):
                return {"problem": f"it does not end in {WAIT:g} s"}
            piece = os.read(child.stdout.fileno(), LONGEST_ANSWER)
            if not piece:
                break
            received += piece
    try:
        answer = json.loads(received)
        json.dumps(answer)  # what is nested too deeply to be shown is no value
    except (ValueError, RecursionError):
        answer = None
    if isinstance(answer, dict):
        return answer
    if received:
        return {"problem": "it prints what is no value"}
    return {"problem": f"it ended with code {child.wait()}, for its time or by a crash"}

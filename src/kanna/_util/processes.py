"""Child processes of ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kanna.errors import KannaError, MissingError

_disposable = False


def mark_disposable() -> None:
    """Say that this process was started for one job: what ends it ends nothing else."""
    global _disposable
    _disposable = True


def is_disposable() -> bool:
    """Whether `mark_disposable` was called: then nothing needs a process of its own again."""
    return _disposable


# OpenMP's threads wait for each other by asking again and again, for milliseconds. On a processor
# that another program uses, that takes the very time the late thread needs: two threads were up to
# forty times slower than one. After this many questions they sleep until they are woken: enough for
# a matrix's threads to meet (with 100, two idle cores generate at 0.4 of their speed).
_PATIENCE = {"GOMP_SPINCOUNT": "5000"}


def openmp_patience() -> dict[str, str]:
    """Variables that make OpenMP's threads sleep while they wait; none where the user set some."""
    decided = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys()
    return {} if decided else dict(_PATIENCE)


def environment() -> dict[str, str]:
    """This process's environment, in which a child imports kanna from the same place."""
    places = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return os.environ | openmp_patience() | {"PYTHONPATH": os.pathsep.join(p for p in places if p)}


def ask(
    module: str, task: Mapping[str, Any], what: str, *, variables: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What `python -m module TASK` prints last, a JSON object.

    Args:
        module: Whose `main` calls `answer`.
        task: Its keyword arguments.
        what: What the child does, for the message when it dies.
        variables: Added to its environment.

    Raises:
        MissingError: The child lacks something.
        KannaError: It failed otherwise.
    """
    command = [sys.executable, "-m", module, json.dumps(task)]
    settings = environment() | dict(variables or {})
    done = subprocess.run(command, capture_output=True, text=True, env=settings, check=False)
    try:
        answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise KannaError(f"{what} ended with code {done.returncode}: {lines[-1]}") from None
    if "error" in answer:
        kind = MissingError if answer["exit"] == 3 else KannaError
        raise kind(answer["error"], expected=answer["expected"], todo=answer["todo"])
    return answer


def answer(work: Callable[..., dict[str, Any]]) -> int:
    """The child's side of `ask`.

    Run `work` with the task on the command line, print what it gives, return the code.
    """
    mark_disposable()
    try:
        print(json.dumps(work(**json.loads(sys.argv[1]))))
    except KannaError as error:
        problem = {
            "error": error.found,
            "expected": error.expected,
            "todo": error.todo,
            "exit": error.exit_code,
        }
        print(json.dumps(problem))
        return error.exit_code
    return 0

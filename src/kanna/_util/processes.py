"""Child processes of ours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kanna._util.interpreter import SAFE_VARIABLES, module_command
from kanna.errors import KannaError, MissingError

_disposable = False
_KILLED: int = getattr(signal, "SIGKILL", 9)
_ROOT = Path(__file__).anchor


def end_with_parent(by: int = _KILLED) -> None:
    """In a child of ours: end when the process that started this one has ended, however it did.

    Linux sends a signal; elsewhere the standard input that `started` gave closes.

    Args:
        by: The signal; it stays with a program that takes this process over.
    """
    if sys.platform == "linux":
        import ctypes

        parent = os.environ.pop(_PARENT, str(os.getppid()))
        ctypes.CDLL(None).prctl(1, by)  # PR_SET_PDEATHSIG
        if str(os.getppid()) != parent:  # it ended before we asked, and left us to another one
            os._exit(1)
    elif os.environ.pop(_PARENT, None) is not None:
        threading.Thread(target=_wait_for_end_of_input, daemon=True).start()


_PARENT = "_KANNA_PARENT"
_WHEN_KILLED = (
    "a signal ended it: see the system's log whether memory ran out (`kanna fit` says what a model "
    "takes); else the runtime crashed, and `kanna bug-report` packs what tells of it"
)


def _wait_for_end_of_input() -> None:
    with suppress(OSError):
        while os.read(0, 4096):
            pass
    os._exit(1)


@contextmanager
def started(
    command: Sequence[str], *, variables: Mapping[str, str] | None = None, merged: bool = False
) -> Generator[subprocess.Popen[str]]:
    """A child that runs for the length of the block; whatever ends the block early ends it too.

    Its `main` calls `end_with_parent`; of a program of others `bound_program` does. Its output is
    read as text.

    Args:
        command: Program and arguments.
        variables: Added to its environment.
        merged: Its standard error goes where its output goes.
    """
    settings = environment() | {_PARENT: str(os.getpid())} | dict(variables or {})
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if merged else subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=settings,
    )
    try:
        yield child
        child.wait()
    finally:
        end_all(child)
        for stream in (child.stdin, child.stdout, child.stderr):
            if stream is not None:
                with suppress(OSError, ValueError):
                    stream.close()


def end_all(child: subprocess.Popen[str]) -> None:
    """End a child that lives with all that it started."""
    import psutil

    if child.poll() is not None:  # its number may be another process's by now
        return
    below: list[psutil.Process] = []
    with suppress(psutil.Error):
        below = psutil.Process(child.pid).children(recursive=True)
    child.kill()
    for process in below:
        with suppress(psutil.Error):
            process.kill()
    child.wait()


def was_killed(code: int | None) -> bool:
    """Whether a process that ended with this code was ended by the system or by somebody else.

    Args:
        code: Its return code; None while it runs.
    """
    return code == -_KILLED


def run(
    command: Sequence[str], *, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """What a child that `started` starts prints until it ends."""
    with started(command, variables=variables) as child:
        read: list[str] = []
        assert child.stdout is not None and child.stderr is not None
        errors = child.stderr
        reader = threading.Thread(target=lambda: read.append(errors.read()), daemon=True)
        reader.start()
        printed = child.stdout.read()
        reader.join()
    return subprocess.CompletedProcess(command, child.returncode, printed, "".join(read))


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


def working_folder() -> str:
    """The folder we stand in, for a child that waits for its next task.

    A folder that somebody deleted since is no place to start from: libraries ask for it while
    they load, so the root stands for it.
    """
    try:
        return str(Path.cwd())
    except OSError:
        return _ROOT


def stand_in(folder: str) -> None:
    """Go where the parent stands; to the root when that is gone."""
    try:
        os.chdir(folder)
    except OSError:
        os.chdir(_ROOT)


def environment() -> dict[str, str]:
    """This process's environment, in which a child imports kanna from the same place."""
    places = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    paths = os.pathsep.join(place for place in places if place)
    return os.environ | openmp_patience() | SAFE_VARIABLES | {"PYTHONPATH": paths}


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
    command = module_command(module, json.dumps(task))
    done = run(command, variables=variables)
    try:
        answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise KannaError(
            f"{what} ended with code {done.returncode}: {lines[-1]}",
            todo=_WHEN_KILLED if done.returncode < 0 else "",
        ) from None
    if "error" in answer:
        kind = MissingError if answer["exit"] == 3 else KannaError
        raise kind(answer["error"], expected=answer["expected"], todo=answer["todo"])
    return answer


def answer(work: Callable[..., dict[str, Any]]) -> int:
    """The child's side of `ask`.

    Run `work` with the task on the command line, print what it gives, return the code.
    """
    end_with_parent()
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

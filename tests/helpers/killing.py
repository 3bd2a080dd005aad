"""Commands of kanna that are ended at a chosen file event or time, and what they leave behind.

A process imports the libraries once and makes a fork of itself for each command. An audit hook in
the fork sees every file that is made, renamed or removed, every process that is started and every
request that is sent; before the event of a given number it sends the fork a signal. Nothing in
`src/` knows of it.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_SEEN = {
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "subprocess.Popen",
    "http.client.send",
}
_MARK = "KANNA_TEST_MARK"


@dataclass(kw_only=True)
class Ended:
    """How a command ended.

    Attributes:
        code: Of its exit; negative: the signal that ended it.
        seconds: It ran.
        events: What it did to files, in order, if it was recorded.
        errors: Its standard error.
        survivors: Command lines of its processes that outlived it.
    """

    code: int
    seconds: float
    events: list[str] = field(default_factory=list[str])
    errors: str = ""
    survivors: list[str] = field(default_factory=list[str])


class Launcher:
    """The process that makes forks of itself."""

    def __init__(self, *, everything: bool = True) -> None:
        here = Path(__file__)
        places = [str(here.parents[1]), os.environ.get("PYTHONPATH", "")]
        settings = {
            "PYTHONPATH": os.pathsep.join(p for p in places if p),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "helpers.killing", str(int(everything))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | settings,
        )
        self.count = 0

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()

    def run(
        self,
        words: list[str],
        home: Path,
        *,
        number: int = 0,
        event: int = -1,
        seconds: float | None = None,
    ) -> Ended:
        """Run a command in `home`, with a TMPDIR of its own, and end it.

        Args:
            words: The command line, after `kanna`.
            home: Where it runs; relative paths begin there.
            number: The signal that is sent.
            event: Before which file event; -1: before none.
            seconds: After so many seconds, in place of that.
        """
        self.count += 1
        mark = f"{os.getpid()}-{self.count}"
        (home / "tmp").mkdir(exist_ok=True)
        task = {"words": words, "home": str(home), "mark": mark, "event": event, "number": number}
        log = home / "tmp" / ".log"
        task["log"] = str(log)
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        pid = int(self.process.stdout.readline())
        begun, timer = time.monotonic(), None
        if seconds is not None:
            timer = threading.Timer(seconds, _send, (pid, number))
            timer.start()
        try:
            code = int(self.process.stdout.readline())
        finally:
            if timer is not None:
                timer.cancel()
        took = time.monotonic() - begun
        left = survivors(mark, pid)
        errors = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        events = log.with_suffix(".events")
        lines = events.read_text().splitlines() if events.exists() else []
        for path in (log, events):
            path.unlink(missing_ok=True)
        return Ended(code=code, seconds=took, events=lines, errors=errors, survivors=left)


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def survivors(mark: str, session: int, patience: float = 5.0) -> list[str]:
    """Command lines of processes of a command that still live after a moment.

    Args:
        mark: In their environment.
        session: Whose number they may have, too.
        patience: Seconds that a process may take to be taken away by the system.
    """
    end = time.monotonic() + patience
    while True:
        left = [line for pid in Path("/proc").glob("[0-9]*") if (line := _line(pid, mark, session))]
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.1)


def _line(place: Path, mark: str, session: int) -> str:
    try:
        state, _, _, in_session = (place / "stat").read_text().rpartition(")")[2].split()[:4]
        if state == "Z":
            return ""
        ours = f"{_MARK}={mark}".encode() in (place / "environ").read_bytes().split(b"\0")
        if not ours and int(in_session) != session:
            return ""
        line = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (OSError, ValueError):
        return ""
    return f"{place.name}: {line}"


_NOTE = re.compile(r"cache/verified/[0-9a-f]{32}\.\w+\.json")
"""Hashes that were computed once: named by place, and one more wherever a cache was read again."""


def digests(folder: Path) -> dict[str, str]:
    """Every file below a folder with the hash of its bytes, every folder with nothing."""
    made: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if _NOTE.fullmatch(name):
            continue
        made[name] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    return made


# The other process.


def _hook(task: dict[str, Any], pid: int) -> None:
    """Count file events; send the signal before the one that is asked for."""
    at, number = task["event"], task["number"]
    events = os.open(f"{task['log'][:-4]}.log.events", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    count = 0

    def see(name: str, values: tuple[Any, ...]) -> None:
        nonlocal count
        if name == "open":
            flags = values[2] if len(values) > 2 and isinstance(values[2], int) else 0
            if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif name not in _SEEN:
            return
        if os.getpid() != pid:
            return
        os.write(events, (f"{name} {values[0]!r:.200}".replace("\n", " ") + "\n").encode())
        count += 1  # first: what the signal raises goes through here, and comes once
        if count == at + 1:
            os.kill(pid, number)

    sys.addaudithook(see)


def _work(task: dict[str, Any]) -> int:
    """Be the command, in a fork."""
    from kanna.cli.main import cli

    os.setsid()
    os.chdir(task["home"])
    home = Path(task["home"])
    os.environ[_MARK] = task["mark"]
    os.environ["TMPDIR"] = str(home / "tmp")
    os.environ["HOME"] = str(home)
    os.environ["KANNA_CACHE"] = str(home / "cache")
    import tempfile

    tempfile.tempdir = os.environ["TMPDIR"]  # looked for, it would be tried with a file
    log = os.open(task["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for number in (1, 2):
        os.dup2(log, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    _hook(task, os.getpid())
    try:
        cli(task["words"])
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 1
    return 0


def _leave() -> None:
    """What an interpreter does at its end: it waits for threads, then calls what asked for it."""
    ending: Any = (threading, atexit)
    ending[0]._shutdown()
    ending[1]._run_exitfuncs()


def _import_everything() -> None:
    """What every command would import again."""
    import importlib

    from kanna._util import plugins
    from kanna.cli import main

    for name in plugins.names(main.COMMANDS, "COMMAND"):
        plugins.load(main.COMMANDS, name, "COMMAND")
    for name in (
        "kanna.comparison",
        "kanna.optimization",
        "kanna.packaging",
        "kanna.verified_conversion",
        "kanna.evaluation",
        "torch",
        "transformers",
    ):
        with suppress(ImportError):
            importlib.import_module(name)


def serve(everything: bool) -> None:
    """Make a fork for every line of the input; print its number, then its exit code."""
    if everything:
        _import_everything()
        from helpers.optimizing import quick as settings

        stack = settings()
        stack.__enter__()
    for line in sys.stdin:
        task = json.loads(line)
        pid = os.fork()
        if not pid:
            code = 70
            try:
                code = _work(task)
            except BaseException as error:  # noqa: BLE001
                print(repr(error), file=sys.stderr)
            _leave()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    serve(sys.argv[1] == "1")

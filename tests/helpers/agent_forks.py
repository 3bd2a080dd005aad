"""Agents as processes of their own, made by forking: each is killed and started again cheaply.

    python -m helpers.agent_forks URL FOLDER CHECK [SPACES]

Reads names of devices, a line each, and makes an agent of each: a new process, whose number it
prints. The libraries are loaded once. With SPACES each agent is in the network namespace of its
device.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from helpers.lossy_networks import Namespaces

_NETWORK = 0x40000000
"""CLONE_NEWNET."""


def enter(space: Path) -> None:
    """Go into a network namespace."""
    with space.open("rb") as opened:
        if ctypes.CDLL(None, use_errno=True).setns(opened.fileno(), _NETWORK):
            raise OSError(ctypes.get_errno(), f"{space} cannot be entered")


def serve(url: str, folder: Path, check: str, *, spaces: bool) -> None:
    """Make an agent for every line of the input."""
    # Everything that an agent loads, before it is forked.
    from kanna._util import processes
    from kanna.fleet.device.polling import agent

    parent = os.getpid()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who was killed leaves nothing
    for line in sys.stdin:
        name = line.strip()
        pid = os.fork()
        if pid:
            print(pid, flush=True)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.environ["_KANNA_PARENT"] = str(parent)
        processes.end_with_parent()
        code = 1
        try:
            if spaces:
                enter(Namespaces.place(name))
            agent(
                folder / "devices" / name,
                server=url,
                key_file=folder / f"{name}.key",
                self_test=check,
                insecure_http=spaces,
            )
        except BaseException as error:  # noqa: BLE001
            print(repr(error), file=sys.stderr, flush=True)
        os._exit(code)


class Forks:
    """The process that makes agents, from a test."""

    def __init__(self, url: str, folder: Path, check: Path, *, spaces: bool = False) -> None:
        # Its agents end with it, however that ends.
        words = [sys.executable, "-m", "helpers.agent_forks", url, str(folder), str(check)]
        words += ["spaces"] if spaces else []
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        self.running: dict[str, int] = {}

    def start(self, name: str) -> None:
        """An agent of a device."""
        assert self._process.stdin and self._process.stdout
        print(name, file=self._process.stdin, flush=True)
        self.running[name] = int(self._process.stdout.readline())

    def kill(self, name: str) -> None:
        """Kill -9 of the agent of a device, which is gone at the end of this."""
        pid = self.running.pop(name)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            while True:
                os.kill(pid, 0)
                time.sleep(0.001)

    def stop(self) -> None:
        """Kill all of them."""
        for name in list(self.running):
            self.kill(name)
        self._process.kill()
        self._process.wait()


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]), sys.argv[3], spaces=len(sys.argv) > 4)

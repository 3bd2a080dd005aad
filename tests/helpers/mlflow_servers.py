"""A real `mlflow server` on this machine, with a database of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO


@dataclass(frozen=True, kw_only=True)
class RunningServer:
    """A server that runs."""

    address: str
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        """End it at once, with the children that do its work."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()


_WATCH = 'exec 3<&0; (read _ <&3; kill -9 0) & exec "$@" </dev/null 3<&-'
"""A pipe that this process holds ends however it ends, and with it the group of the command."""


def watched(
    command: list[str],
    *,
    log: IO[str] | None = None,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own that no end of this process outlives.

    Args:
        command: The program and its arguments.
        log: Takes what it says; None: that of this process does.
        env: Its environment; None: that of this process.
        cwd: Where it runs.
    """
    return subprocess.Popen(
        ["sh", "-c", _WATCH, "sh", *command],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        env=env,
        cwd=cwd,
        start_new_session=True,
    )


@contextmanager
def running(folder: Path) -> Generator[RunningServer]:
    """A server, as long as the block goes on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}"]
    command += ["--artifacts-destination", str(folder / "files")]
    environment = os.environ | {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    with (folder / "server.log").open("w") as log:
        server = watched(command, log=log, env=environment, cwd=folder)
    running_server = RunningServer(address=f"http://127.0.0.1:{port}", process=server)
    try:
        for _ in range(1200):
            assert server.poll() is None, (folder / "server.log").read_text()[-2000:]
            if _answers(f"{running_server.address}/health"):
                break
            time.sleep(0.1)
        yield running_server
    finally:
        running_server.stop()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False

"""Servers that tests start end with them, however the tests end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import sys, time
from helpers.mlflow_servers import watched
child = "import subprocess, time; p = subprocess.Popen(['sleep', '600']); print(p.pid, flush=True);"
server = watched([sys.executable, "-c", child + "time.sleep(600)"])
print(server.pid, flush=True)
time.sleep(600)
"""


def runs(pid: int) -> bool:
    """Whether a process lives; what nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_server_and_its_workers_end_with_the_tests(number: int) -> None:
    here = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": here},
    ) as tests:
        assert tests.stdout is not None
        pids = [int(tests.stdout.readline()) for _ in range(2)]
        assert all(map(runs, pids))
        tests.send_signal(number)
        tests.wait(30)
        end = time.monotonic() + 20
        while any(map(runs, pids)) and time.monotonic() < end:
            time.sleep(0.05)
        assert not any(map(runs, pids))

"""A studio in a process of its own, as `kanna studio` starts it, and what its page asks of it."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import psutil


class Studio:
    """One run of `kanna studio FOLDER`; a later one of the same folder goes on with its jobs."""

    def __init__(self, folder: Path, *options: str, searched: Path | None = None) -> None:
        places = ["--models", str(searched or folder)]
        command = [sys.executable, "-m", "kanna", "studio", str(folder), "--no-browser"]
        self.process = subprocess.Popen(
            [*command, "--port", "0", "--context", "256", *places, *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr
        log = ""
        for line in self.process.stderr:
            log += line
            if address := re.search(r"(http://\S+/)#key=(\S+)", line):
                break
        else:
            raise AssertionError(log)
        self.log, self.address, self.key = log, address[1], address[2]
        threading.Thread(target=self.process.stderr.read, daemon=True).start()
        self.client = httpx.Client(
            base_url=self.address, headers={"Authorization": f"Bearer {self.key}"}, timeout=60
        )

    @property
    def page(self) -> str:
        return f"{self.address}#key={self.key}"

    def ask(self, method: str, path: str, **options: Any) -> Any:
        answer = self.client.request(method, path, **options)
        assert answer.status_code < 300, answer.text
        return answer.json() if answer.content else None

    def start(self, **body: Any) -> dict[str, Any]:
        return self.ask("POST", "/studio/jobs", json=body)

    def job(self, job: dict[str, Any]) -> dict[str, Any]:
        return self.ask("GET", f"/studio/jobs/{job['id']}")

    def until(self, job: dict[str, Any], *states: str, seconds: float = 90) -> dict[str, Any]:
        """Wait until a job has one of these states."""
        end = time.monotonic() + seconds
        while (now := self.job(job))["state"] not in states:
            assert time.monotonic() < end, now
            time.sleep(0.05)
        return now

    def until_writing(self, job: dict[str, Any]) -> None:
        """Wait until a job's process reports that it works."""
        self.until(job, "running")
        end = time.monotonic() + 60
        while not self.job(job)["progress"].get("stage"):
            assert time.monotonic() < end, self.job(job)
            time.sleep(0.02)

    def stop(self) -> None:
        self.client.close()
        self.process.terminate()
        self.process.wait(30)

    def kill(self) -> None:
        """As `kill -9`."""
        self.client.close()
        self.process.kill()
        self.process.wait()


def workers(folder: Path) -> list[int]:
    """Processes that work in a folder."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if any(str(folder) in word for word in process.info["cmdline"] or ())
        and "kanna.serving.studio.worker" in " ".join(process.info["cmdline"])
    ]

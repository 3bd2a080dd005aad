"""A gateway in a process of its own, as a user starts it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai

SMALL = ["--context", "256", "--parallel", "2", "--threads", "1"]


def kanna(*arguments: object, state: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kanna", *map(str, arguments), "--state", str(state)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@dataclass
class Running:
    process: subprocess.Popen[str]
    url: str
    state: Path

    def client(self, key: str = "none", **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, **options)

    def get(self, path: str, key: str = "") -> tuple[int, str]:
        return self.send(
            urllib.request.Request(self.url + path, headers={"authorization": f"Bearer {key}"})
        )

    def post(self, path: str, body: bytes, key: str = "") -> tuple[int, str]:
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        return self.send(urllib.request.Request(self.url + path, body, headers))

    def send(self, request: urllib.request.Request) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


def start(
    model: Path, state: Path, *options: str, environment: dict[str, str] | None = None
) -> Running:
    """A gateway of the model `small`; `environment`: more of its variables."""
    command = [
        sys.executable,
        "-m",
        "kanna",
        "serve",
        f"small={model}",
        "--port",
        "0",
        "--state",
        str(state),
    ]
    process = subprocess.Popen(
        [*command, *SMALL, *options],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | (environment or {}),
    )
    assert process.stderr
    for line in process.stderr:
        if address := re.search(r"(https?://\S+)/v1", line):
            return Running(process, address[1], state)
    raise AssertionError(f"the gateway ended with {process.wait()}")


def stop(running: Running) -> None:
    running.process.send_signal(signal.SIGINT)
    try:
        running.process.wait(20)
    finally:
        running.process.kill()


MESSAGES: Any = [{"role": "user", "content": "Say hello."}]

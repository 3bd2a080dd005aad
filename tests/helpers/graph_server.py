"""A process that has loaded what makes ONNX graphs, and forks for each: loading takes five seconds.

`python -m helpers.graph_server` answers a task per line: {"kind": "decoder" or "encoder", "task":
arguments of the worker} → {"code": exit code}.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from kanna._util import processes
from kanna._util.hidden_packages import BESIDE_TRANSFORMERS, QUANTIZERS, hide
from kanna.formats.onnx import build_worker, encoder_worker

WORKERS = {"decoder": build_worker.build, "encoder": encoder_worker.export}
LOADED = {
    "decoder": ("onnxruntime_genai.models.builder",),
    "encoder": (
        "onnx",
        "onnxscript",
        "transformers.modeling_utils",
        "torch.onnx._internal.exporter._core",
    ),
}
"""What each kind imports in any case: before the fork, so once."""


class GraphServer:
    """The process, started when it is first asked."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._path = processes.environment()["PYTHONPATH"]

    def makes(self, kind: str, task: Mapping[str, str]) -> bool:
        """Whether it made the graph; it does not where a child would import from elsewhere."""
        variables = processes.environment()
        if variables["PYTHONPATH"] != self._path:
            return False
        if self._process is None:
            tests = str(Path(__file__).parents[1])
            self._process = subprocess.Popen(
                [sys.executable, "-m", "helpers.graph_server"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=variables | {"PYTHONPATH": os.pathsep.join((variables["PYTHONPATH"], tests))},
            )
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps({"kind": kind, "task": dict(task)}) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())["code"] == 0

    def end(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


def _make(kind: str, task: dict[str, str]) -> int:
    """In a process of its own, whose memory is free again afterwards; its exit code."""
    for module in LOADED[kind]:
        with suppress(ImportError):  # the worker says what is missing
            importlib.import_module(module)
    child = os.fork()
    if child == 0:
        try:
            WORKERS[kind](**task)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    """Answer until standard input closes."""
    os.environ.update(build_worker.OFFLINE)
    hide(*BESIDE_TRANSFORMERS, *QUANTIZERS)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        answers.write(json.dumps({"code": _make(**json.loads(line))}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()

"""`import kanna` and `kanna --help` are quick, and load nothing heavy."""

from __future__ import annotations

import subprocess
import sys

HEAVY = (
    "torch",
    "transformers",
    "llama_cpp",
    "rich",
    "pydantic",
    "huggingface_hub",
    "tokenizers",
    "jinja2",
)

MEASURE = """
import json, sys, time
began = time.process_time()
{work}
seconds = time.process_time() - began
print(json.dumps([seconds, [m for m in {heavy!r} if m in sys.modules]]))
"""

HELP = """
import kanna.cli.main, contextlib, io
with contextlib.redirect_stdout(io.StringIO()):
    kanna.cli.main.cli(["--help"], standalone_mode=False)
"""


TRANSFER = (*HEAVY, "numpy", "safetensors", "psutil", "yaml", "cyclonedx")
"""What a push or pull loads while bytes are on their way, or not at all."""


def measured(work: str, heavy: tuple[str, ...] = HEAVY) -> tuple[float, list[str]]:
    """Least processor seconds of three fresh interpreters, and the heavy modules one loaded."""
    import json

    code = MEASURE.format(work=work.strip(), heavy=heavy)
    runs = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True
            ).stdout
        )
        for _ in range(3)
    ]
    return min(r[0] for r in runs), runs[0][1]


def test_import_is_light() -> None:
    seconds, heavy = measured("import kanna")
    assert heavy == []
    assert seconds < 0.2


def test_help_is_light() -> None:
    seconds, heavy = measured(HELP)
    assert heavy == []
    assert seconds < 0.3


def test_a_push_and_a_pull_begin_soon() -> None:
    seconds, heavy = measured("import kanna\nkanna.push, kanna.pull", TRANSFER)
    assert heavy == []
    assert seconds < 0.4

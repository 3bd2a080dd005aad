"""A kept process with torch and transformers, for all that asks them: loading both takes 4 s.

`python -m kanna._util.transformers_process` answers a task per line: {"module": …, "task": …} with
what the `read` of that module of kanna gives.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any

from kanna._util import outgoing
from kanna._util.hidden_packages import BESIDE_TRANSFORMERS, hide
from kanna._util.kept_process import ask_kept, serve


def ask(module: str, task: Mapping[str, Any]) -> dict[str, Any]:
    """What `read` of a module gives, in the process.

    Args:
        module: Its full name.
        task: Keyword arguments of its `read`.

    Raises:
        KannaError: The process died.
    """
    return ask_kept(
        "kanna._util.transformers_process", {"module": module, "task": dict(task)}, "transformers"
    )


def _read(module: str, task: dict[str, Any]) -> dict[str, Any]:
    return importlib.import_module(module).read(**task)


if __name__ == "__main__":
    os.environ.update(outgoing.LIBRARIES)
    hide(*BESIDE_TRANSFORMERS)
    sys.exit(serve(_read))

"""Python for children of ours, that imports nothing from the folder it is started in.

`python -m` puts the working folder before all others on its path, and `python -c` does: whoever
stands in a folder that was downloaded would run a `json.py` of it.
"""

from __future__ import annotations

import sys
from pathlib import Path

_SAFE_PATH = (3, 11)  # the first Python with -P
# `sys` is built in: nothing is looked up in a folder before the working folder is off the path.
_WITHOUT_SAFE_PATH = (
    "import sys; sys.path[:] = filter(None, sys.path); del sys.argv[0]; import runpy; "
    "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)

SAFE_VARIABLES = {"PYTHONSAFEPATH": "1"}
"""For the environment of a child: what it starts itself imports nothing from there either."""


def folder() -> Path:
    """Where this Python lies, and with it the programs of its packages."""
    return Path(sys.executable).parent


def module_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module in a child, as `python -m` does.

    Args:
        module: Its full name.
        arguments: What it gets.
    """
    if sys.version_info >= _SAFE_PATH:
        return [sys.executable, "-P", "-m", module, *arguments]
    return [sys.executable, "-c", _WITHOUT_SAFE_PATH, module, *arguments]


def file_command(file: str, *arguments: str) -> list[str]:
    """The command that runs a file that needs Python's standard library alone.

    Args:
        file: Its path.
        arguments: What it gets.
    """
    return [sys.executable, "-I", "-S", file, *arguments]

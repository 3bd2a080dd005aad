"""Starting the process of an engine, with little imported.

It starts up while the gateway still does.
"""

from __future__ import annotations

import os
import subprocess
import sys

_QUIET = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def launch(engine: str) -> subprocess.Popen[bytes]:
    """A process that imports what `engine` needs and waits for a line on its standard input.

    From the main thread only: on Linux a child dies with the thread that made it.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "kanna.serving.child", engine],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | _QUIET | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )

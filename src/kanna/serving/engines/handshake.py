"""The child's side of standard output, over which it announces its port to the gateway."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

_gateway_pipe: int | None = None


def redirect_stdout() -> None:
    """Send file descriptor 1, to which native libraries write, to standard error.

    What standard output was stays open for `announce_ready` alone.
    """
    global _gateway_pipe
    _gateway_pipe = os.dup(1)
    os.dup2(2, 1)


def announce_ready(
    port: int, *, program: str, build: str = "", listening: bool = True, guidance: bool = False
) -> None:
    """Announce to the gateway that requests may come.

    Args:
        port: Of the loopback interface.
        program: What runs the model, as `kanna ps` shows it.
        build: Version and options of a native library.
        guidance: Whether grammars in llguidance's notation are taken.
        listening: False where `/health` says later that the model is loaded.
    """
    message = {"port": port, "program": program, "build": build, "listening": listening}
    send_line(message | {"guidance": guidance})


def send_line(message: dict[str, Any]) -> None:
    """Send an object to the gateway, as a line of JSON."""
    line = json.dumps(message) + "\n"
    if _gateway_pipe is None:
        sys.stdout.write(line)
        sys.stdout.flush()
    else:
        os.write(_gateway_pipe, line.encode())

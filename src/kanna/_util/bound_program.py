"""Another's program that ends when we do, however we did.

`python -m kanna._util.bound_program COMMAND…` runs a command that knows nothing of us, such as
ninja: were it left to itself when we are killed, the next run would meet it in the same folder.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

from kanna._util.interpreter import module_command
from kanna._util.processes import end_with_parent


def bound(command: Sequence[str]) -> list[str]:
    """The command for `processes.started` that runs a program of others.

    Args:
        command: The program, with its path, and its arguments.
    """
    return module_command("kanna._util.bound_program", *command)


def main(command: list[str]) -> int:
    """Become the program, or wait for it where the system tells nobody of a parent's end.

    SIGTERM, not SIGKILL, is what ends it: then it ends what it started itself.
    """
    if sys.platform == "linux":
        end_with_parent(signal.SIGTERM)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.execvp(command[0], command)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def wait_for_parent() -> None:
        while os.read(0, 4096):
            pass
        child.terminate()

    threading.Thread(target=wait_for_parent, daemon=True).start()
    return child.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

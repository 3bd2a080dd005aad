"""The process of an engine.

`python -m kanna.serving.child ENGINE` imports what the engine needs, and a line of JSON on its
standard input says what to run. It ends with the gateway, however that ends: its standard input
closes, and on Linux the kernel kills it.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kanna._util import memory_limits

if TYPE_CHECKING:
    from kanna.serving.engines.base import EngineConfig


def limit_memory(config: EngineConfig) -> None:
    """Let the kernel refuse what lies far above the limit, between two looks of the gateway.

    Memory of a GPU's driver would count, so that its engines are only watched.
    """
    if config.memory_limit and not (config.gpu_layers != 0 and memory_limits.has_gpu()):
        memory_limits.limit_memory(2 * config.memory_limit)


def _exit_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


def main() -> int:
    """Run the engine that the command line names; returns an exit code."""
    from kanna._util.hidden_packages import hide
    from kanna._util.processes import end_with_parent, mark_disposable
    from kanna.errors import KannaError
    from kanna.formats import folder_files
    from kanna.serving import engines
    from kanna.serving.engines.handshake import redirect_stdout

    end_with_parent()
    memory_limits.lower_in_oom_order()
    mark_disposable()
    redirect_stdout()
    # Ctrl-C reaches the whole group of processes: the gateway alone decides when engines end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    engine = engines.get(sys.argv[1])
    hide(*engine.unneeded)
    for module in engine.modules:
        with suppress(ImportError):  # `run` says what is missing
            importlib.import_module(module)
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(0, 65536) or os._exit(1)
    config = engines.EngineConfig.from_json(line.decode())
    limit_memory(config)
    threading.Thread(target=_exit_with_stdin, daemon=True).start()
    try:
        folder_files.check(Path(config.path))
        engines.get(config.engine).run(config)
    except KannaError as error:
        print(f"kanna: {error.found}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

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

if TYPE_CHECKING:
    from kanna.serving.engines.base import EngineConfig

_ADDRESS_SLACK = 4 << 30
"""Bytes of address space for stacks and allocators, which is not memory yet."""
_GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd")
"""Of drivers that reserve address space in the terabytes."""
_OOM_SCORE = 500
"""Of engines, where the gateway has 0 and what the kernel ends first has 1000."""


def lower_in_oom_order() -> None:
    """Ask Linux to end this process before the gateway when memory is short."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE), encoding="ascii")


def limit_memory(config: EngineConfig) -> None:
    """Let the kernel refuse what lies far above the limit, between two looks of the gateway.

    Mapped files do not count; memory of a GPU's driver would, so that its engines are only watched.
    """
    on_gpu = config.gpu_layers != 0 and any(Path(device).exists() for device in _GPU_DEVICES)
    if sys.platform != "linux" or not config.memory_limit or on_gpu:
        return
    import resource

    limit = 2 * config.memory_limit + _ADDRESS_SLACK
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _exit_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


def main() -> int:
    """Run the engine that the command line names; returns an exit code."""
    from kanna._util.processes import end_with_parent, mark_disposable
    from kanna.errors import KannaError
    from kanna.formats import folder_files
    from kanna.serving import engines
    from kanna.serving.engines.handshake import redirect_stdout

    end_with_parent()
    lower_in_oom_order()
    mark_disposable()
    redirect_stdout()
    # Ctrl-C reaches the whole group of processes: the gateway alone decides when engines end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for module in engines.get(sys.argv[1]).modules:
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

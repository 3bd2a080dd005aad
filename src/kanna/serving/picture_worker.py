"""The process that decodes pictures on trial: `python -m kanna.serving.picture_worker`.

It answers each file with why it cannot be decoded, or with nothing: by the decoder of the engine,
where llama.cpp is installed as a library; else headers alone were checked.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress

from kanna import libllama
from kanna.errors import FormatError, KannaError, MissingError
from kanna.libllama import pictures
from kanna.runtimes.llama_tower import decoded
from kanna.runtimes.llamacpp import library

_MEMORY = 1 << 30
"""Bytes beside those of the library: the most pixels take 150 MB, a few times on the way."""


def decoder() -> Callable[[bytes], str]:
    """Why a file cannot be decoded; "" where it can."""
    try:
        library()
        lib = pictures.functions(libllama.library())
    except MissingError:
        return lambda _: ""

    def decode(data: bytes) -> str:
        try:
            lib.mtmd_bitmap_free(decoded(lib, data))
        except FormatError as error:
            return error.found
        return ""

    return decode


def _limit() -> None:
    """Little memory from here on; the gateway itself comes first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(AttributeError, OSError):
        os.nice(5)
    with suppress(ImportError, OSError, ValueError):
        import resource

        import psutil

        most = psutil.Process().memory_info().vms + _MEMORY
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))


def main() -> int:
    """Answer until the standard input ends."""
    try:
        decode = decoder()
    except KannaError:
        return 1
    _limit()
    # Whatever the library prints is no answer.
    files, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while size := files.read(8):
        problem = decode(files.read(int.from_bytes(size, "big"))).encode()
        answers.write(len(problem).to_bytes(8, "big"))
        answers.write(problem)
        answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())

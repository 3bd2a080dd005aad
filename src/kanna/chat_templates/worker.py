"""The process that renders chat templates: `python -m kanna.chat_templates.worker`.

On its standard input it gets messages of a length in eight bytes and JSON, and answers in the same
way, one after the other: {"text": …}, or {"kind": …, "problem": …}. Its processor time, memory and
files are limited by the kernel where that can be done, so that neither a loop nor a gigabyte in one
operation outlasts it; what cannot be limited there, the process that asks ends by the clock.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from functools import lru_cache
from typing import Any, BinaryIO

import jinja2

from kanna.chat_templates import LIMIT, REFUSED
from kanna.chat_templates.environment import StepLimitError, environment

MAX_TEXT = 1 << 24
"""Characters of a rendered conversation."""
MEMORY = 512 << 20
"""Bytes of address space."""


class _OutputLimitError(Exception):
    pass


def render(template: str, variables: dict[str, Any]) -> dict[str, str]:
    """The text that a template gives, or the problem."""
    try:
        return {"text": _render(template, variables)}
    except StepLimitError:
        return {"kind": LIMIT, "problem": "takes too many steps"}
    except _OutputLimitError:
        return {"kind": LIMIT, "problem": f"writes more than {MAX_TEXT} characters"}
    except MemoryError:
        return {"kind": LIMIT, "problem": f"needs more than {MEMORY >> 20} MB of memory"}
    except RecursionError:
        return {"kind": LIMIT, "problem": "is nested too deeply, or calls itself without an end"}
    except jinja2.TemplateError as error:
        return {"kind": REFUSED, "problem": str(error)[:2000]}
    except Exception as error:  # a template may raise whatever Python can
        return {"kind": REFUSED, "problem": f"{type(error).__name__}: {error}"[:2000]}


def _render(template: str, variables: dict[str, Any]) -> str:
    environment().steps = 0
    pieces: list[str] = []
    size = 0
    for piece in _compiled(template).generate(variables):
        pieces.append(piece)
        size += len(piece)
        if size > MAX_TEXT:
            raise _OutputLimitError
    return "".join(pieces)


@lru_cache(64)
def _compiled(template: str) -> jinja2.Template:
    return environment().from_string(template)


def _limit_process() -> None:
    """Limit what the kernel can: memory, files, and the dump of a crash."""
    try:
        import resource
    except ImportError:  # Windows
        return
    limits = {
        resource.RLIMIT_AS: MEMORY,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for kind, value in limits.items():
        hard = resource.getrlimit(kind)[1]
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        with suppress(OSError, ValueError):  # macOS has no limit of address space
            resource.setrlimit(kind, (value, value))


def _limit_time(seconds: float) -> None:
    """Let the kernel end this process after so much processor time; 0: no longer."""
    import signal

    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _receive(stream: BinaryIO) -> dict[str, Any] | None:
    size = stream.read(8)
    data = stream.read(int.from_bytes(size, "big")) if len(size) == 8 else b""
    return json.loads(data.decode("utf-8", "surrogatepass")) if data else None


def _send(stream: BinaryIO, value: dict[str, str]) -> None:
    data = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    stream.write(len(data).to_bytes(8, "big"))
    stream.write(data)
    stream.flush()


def main() -> int:
    """Answer until the standard input ends."""
    import signal

    with suppress(ValueError):  # Ctrl-C reaches the whole group: who asks decides
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    environment()
    _limit_process()
    _send(sys.stdout.buffer, {})
    while True:
        try:
            request = _receive(sys.stdin.buffer)
        except MemoryError:
            _send(sys.stdout.buffer, {"kind": LIMIT, "problem": "is given too much text"})
            return 1
        except (ValueError, RecursionError) as error:
            _send(sys.stdout.buffer, {"kind": REFUSED, "problem": f"cannot be given that: {error}"})
            continue
        if request is None:
            return 0
        _limit_time(request["seconds"])
        answer = render(request["template"], request["variables"])
        _limit_time(0)
        _send(sys.stdout.buffer, answer)


if __name__ == "__main__":
    sys.exit(main())

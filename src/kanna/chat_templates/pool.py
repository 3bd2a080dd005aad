"""The processes that render chat templates: started when needed, asked, killed when they hang."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from kanna._util.interpreter import SAFE_VARIABLES, module_command
from kanna._util.processes import was_killed
from kanna.chat_templates import LIMIT
from kanna.errors import FormatError, KannaError, MissingError, TemplateLimitError

SECONDS = 2.0
"""Processor time of one rendering; the median of templates in use takes a ten-thousandth of it."""
MAX_TEMPLATE = 1 << 20
"""Characters: more than any template in use; a longer one is not parsed."""
_HAS_TIMER = hasattr(signal, "setitimer")
_WAIT = 300.0 if _HAS_TIMER else 10.0
"""Seconds by the clock. Where the kernel counts processor time, that alone judges a template:
on a busy machine one that takes a millisecond may wait for its turn for a long time."""
_START = 60.0
_MAX_PROCESSES = 4
_KEPT = ("PATH", "SYSTEMROOT", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH")
"""Variables that the processes get: a template has no business with the others."""


class RenderProcess:
    """One process; used by one thread at a time.

    Attributes:
        child: The process itself.
        late: Whether it was killed for the time it took.
    """

    def __init__(self) -> None:
        paths = [str(Path(__file__).parents[2]), *(p for p in sys.path if p)]
        variables = {name: os.environ[name] for name in _KEPT if name in os.environ}
        self.late = False
        self.child = subprocess.Popen(
            module_command("kanna.chat_templates.worker"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=variables | SAFE_VARIABLES | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))},
        )
        if self._within(_START, self._receive) is None:
            self.kill()
            raise KannaError("the process that renders chat templates does not start")

    def _within(self, seconds: float, work: Any) -> Any:
        """What `work` gives; None when the process ended or had to be killed."""
        timer = threading.Timer(seconds, self._expire)
        timer.daemon = True
        timer.start()
        try:
            return work()
        except (OSError, ValueError):
            return None
        finally:
            timer.cancel()

    def _expire(self) -> None:
        self.late = True
        self.child.kill()

    def _receive(self) -> dict[str, str] | None:
        assert self.child.stdout
        size = self.child.stdout.read(8)
        data = self.child.stdout.read(int.from_bytes(size, "big")) if len(size) == 8 else b""
        return json.loads(data.decode("utf-8", "surrogatepass")) if data else None

    def ask(self, data: bytes) -> dict[str, str] | None:
        """The answer to a request; None when the process ended over it."""

        def exchange() -> dict[str, str] | None:
            assert self.child.stdin
            self.child.stdin.write(len(data).to_bytes(8, "big"))
            self.child.stdin.write(data)
            self.child.stdin.flush()
            return self._receive()

        answer = self._within(_WAIT, exchange)
        return None if self.late else answer

    def alive(self) -> bool:
        """Whether it can be asked."""
        return not self.late and self.child.poll() is None

    def ended_by_time(self) -> bool:
        """Whether the clock or the kernel ended it for the time that it took."""
        timers = {-int(getattr(signal, name, 0)) for name in ("SIGPROF", "SIGXCPU")}
        return self.late or self.child.wait() in timers - {0}

    def ended_by_machine(self) -> bool:
        """Whether it is no fault of the template: the machine had no memory, or no time, for it."""
        return _HAS_TIMER and (self.late or was_killed(self.child.wait()))

    def kill(self) -> None:
        """End it."""
        self.child.kill()
        for stream in (self.child.stdin, self.child.stdout):
            with suppress(OSError):
                assert stream
                stream.close()
        self.child.wait()


class RenderPool:
    """Processes that render, a few at a time.

    Attributes:
        idle: Those that wait.
    """

    def __init__(self) -> None:
        self._turns = threading.BoundedSemaphore(_MAX_PROCESSES)
        self.idle: list[RenderProcess] = []

    def ask(self, data: bytes) -> dict[str, str]:
        """The answer of a process that is idle, or of a new one.

        Raises:
            TemplateLimitError: The process did not survive it.
            MissingError: The system ended it, or gave it no time.
        """
        with self._turns:
            process = self._take()
            try:
                answer = process.ask(data)
            except BaseException:  # Ctrl-C: what it answers later is nobody's
                process.kill()
                raise
            if answer is None and process.ended_by_machine():
                process.kill()
                raise MissingError(
                    "the process that renders chat templates was killed by the system, or got no "
                    f"processor time in {_WAIT:.0f} s",
                    todo="free memory, or end other programs, and run the command again",
                )
            if answer is None:
                reason = (
                    "does not end in the time for it"
                    if process.ended_by_time()
                    else "ends the process that renders it, for memory or by a crash"
                )
                process.kill()
                raise TemplateLimitError(f"the chat template {reason}", todo=_TODO)
            self.idle.append(process)
            return answer

    def _take(self) -> RenderProcess:
        while self.idle:
            with suppress(IndexError):  # another thread took it
                process = self.idle.pop()
                if process.alive():
                    return process
                process.kill()
        return RenderProcess()


_TODO = "use a model whose template you trust, or ask for a completion without a template"
shared_pool = RenderPool()


def _forget() -> None:
    """A forked process has the pipes of its parent, which are not its own to use."""
    global shared_pool
    shared_pool = RenderPool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def render(template: str, variables: dict[str, Any], *, seconds: float | None = None) -> str:
    """The text that a template gives, rendered in another process; blocks until it is there.

    Args:
        template: Jinja2 text.
        variables: What the template can name; plain data.
        seconds: Processor time; None: SECONDS.

    Raises:
        TemplateLimitError: It takes more time, memory, steps or text than a template may.
        MissingError: The system ended the process, or gave it no time.
        FormatError: It is broken or raises.
    """
    if len(template) > MAX_TEMPLATE:
        raise TemplateLimitError(
            f"the chat template has {len(template)} characters", expected=f"at most {MAX_TEMPLATE}"
        )
    request = {"template": template, "variables": variables, "seconds": seconds or SECONDS}
    try:
        data = json.dumps(request, ensure_ascii=False).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError, RecursionError) as error:
        raise FormatError(f"a chat template cannot be given that: {error}") from error
    answer = shared_pool.ask(data)
    if "text" in answer:
        return answer["text"]
    if answer["kind"] == LIMIT:
        raise TemplateLimitError(f"the chat template {answer['problem']}", todo=_TODO)
    raise FormatError(f"the chat template cannot be rendered: {answer['problem']}")

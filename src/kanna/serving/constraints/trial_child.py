"""The process in which constraints are compiled on trial.

`python -m kanna.serving.constraints.trial_child ENGINE ARTEFACT` answers lines of JSON,
{"kind", "text"}, with {"refused"}: why the engine's compiler refuses, or "". It is small, and the
kernel ends it where a constraint takes more than its share of time or memory.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from pathlib import Path

TRIAL_TIME, CHAT_TIME = 2.0, 12.0
"""Seconds of the processor for one constraint, and for a chat: threads of the server spin along."""
TRIAL_MEMORY = 1 << 30
"""Bytes above what the process has before the first one."""


def _limit_memory() -> None:
    limit = TRIAL_MEMORY + _data_bytes()
    for kind in (resource.RLIMIT_DATA, resource.RLIMIT_CORE):
        limit = 0 if kind == resource.RLIMIT_CORE else limit
        resource.setrlimit(kind, (limit, limit))


def _data_bytes() -> int:
    """Memory of this process that RLIMIT_DATA counts."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        line = next(line for line in status.splitlines() if line.startswith("VmData:"))
        return int(line.split()[1]) << 10
    except (OSError, StopIteration):
        return 1 << 30


def main() -> int:
    """Answer until standard input closes; returns an exit code."""
    from kanna._util.memory_limits import lower_in_oom_order
    from kanna._util.processes import end_with_parent
    from kanna.serving import engines
    from kanna.serving.engines.handshake import redirect_stdout, send_line

    end_with_parent()
    lower_in_oom_order()
    redirect_stdout()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    engine, artefact = sys.argv[1:3]
    trial = engines.get(engine).constraint_trial
    assert trial
    attempt = trial(artefact)
    _limit_memory()
    send_line({"ready": True})
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # a signal of Python's would wait for the library
    for line in sys.stdin.buffer:
        constraint = json.loads(line)
        limit = CHAT_TIME if constraint["kind"] == "chat" else TRIAL_TIME
        signal.setitimer(signal.ITIMER_PROF, limit)
        refused = attempt(constraint["kind"], constraint["text"])
        signal.setitimer(signal.ITIMER_PROF, 0)
        send_line({"refused": refused[:500]})
    return 0


if __name__ == "__main__":
    sys.exit(main())

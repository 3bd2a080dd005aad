"""What a program and its children ask of the network, and where they write: seen by strace."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from helpers import needs

_CALLS = "connect,sendto,sendmsg,sendmmsg,open,openat,openat2,creat,mkdir,mkdirat"
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
# What looks a name up without a packet of its own: services of this machine that do it for others.
_RESOLVERS = re.compile(r'sun_path="[^"]*(resolve|nscd|avahi|lookup)[^"]*"')
_INTERNET = re.compile(r"AF_INET6?\b")
_LOOPBACK = re.compile(r'inet_addr\("127\.|inet_pton\(AF_INET6, "(::1|::ffff:127\.[^"]*)"')
_WRITES = re.compile(r"\bO_(WRONLY|RDWR|CREAT)\b|\bcreat\(|\bmkdir(at)?\(")
_UNFINISHED = "<unfinished ...>"
_RESUMED = re.compile(r"\d+ +<\.\.\. \w+ resumed>(.*)")
_DEVICES = ("/dev/", "/proc/", "/sys/")

# Its own network, with a loopback and nothing else: `lo` is up, and there is no route.
_ALONE = """
import fcntl, os, socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    fcntl.ioctl(s, 0x8914, struct.pack("16sh14s", b"lo", 0x49, b""))
os.execv(sys.argv[1], sys.argv[1:])
"""


@dataclass(frozen=True)
class Watched:
    """What one run did.

    Attributes:
        code: Its exit code.
        output: Everything it printed.
        asked: Calls that looked up a name or went to another machine, as strace writes them.
        written: Files and folders it made or opened for writing.
    """

    code: int
    output: str
    asked: list[str]
    written: list[Path]


def run(command: list[str], folder: Path, environment: dict[str, str]) -> Watched:
    """Run `command` with its children in a network without routes, where that is allowed.

    Args:
        command: A program with its arguments.
        folder: Where it runs, and where the trace goes.
        environment: All of its variables.
    """
    strace = needs.program("strace", install="strace")
    trace = folder / "trace"
    watch = [strace, "-f", "--seccomp-bpf", "-qq", "-s", "256", "-e", f"trace={_CALLS}"]
    done = subprocess.run(
        [*_namespace(), *watch, "-o", str(trace), *command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    lines = _whole(trace.read_text(errors="replace").splitlines()) if trace.exists() else []
    return Watched(done.returncode, done.stdout, [s for s in lines if _asks(s)], _written(lines))


def _namespace() -> list[str]:
    """A command that runs another without routes; none where a user may not make such a network."""
    alone = ["unshare", "-rn", sys.executable, "-c", _ALONE]
    try:
        tried = subprocess.run([*alone, "/bin/true"], capture_output=True, check=False)
    except FileNotFoundError:
        return []
    return [] if tried.returncode else alone


def _whole(lines: list[str]) -> list[str]:
    """Calls in one line each: strace cuts one in two where another thread's call comes between."""
    begun: dict[str, str] = {}
    whole: list[str] = []
    for line in lines:
        thread = line.split(" ", 1)[0]
        if line.endswith(_UNFINISHED):
            begun[thread] = line.removesuffix(_UNFINISHED)
        elif resumed := _RESUMED.match(line):
            whole.append(begun.pop(thread, thread + " ") + resumed[1])
        else:
            whole.append(line)
    return [*whole, *begun.values()]


def _asks(line: str) -> bool:
    if _RESOLVERS.search(line):
        # nscd is asked for users too, and a socket that is not there answers nobody.
        return "ENOENT" not in line
    return bool(_INTERNET.search(line)) and not _LOOPBACK.search(line)


def _written(lines: list[str]) -> list[Path]:
    found: set[Path] = set()
    for line in lines:
        if not _WRITES.search(line) or re.search(r"= -1 E", line):
            continue
        path = _QUOTED.search(line)
        if path and not path[1].startswith(_DEVICES):
            found.add(Path(path[1]))
    return sorted(found)

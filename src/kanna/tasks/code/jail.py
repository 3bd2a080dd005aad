"""The process that runs code of a model: a file that needs Python's standard library alone.

`python -I -S jail.py LIMITS`, LIMITS as JSON: `root`, an empty folder; `seconds` of processor time;
`memory` and `disk` in bytes; `answer`, the most bytes that are printed. On standard input it gets
`{"program": …, "calls": [expression, …]}`. It prints one line of JSON: `{"refused": why}` where the
kernel does not lock it in, `{"problem": why}`, or `{"values": [[value] or why, …]}`.

Before the program runs, the process has left everything behind: it is in namespaces of its own
(namespaces(7)) without a network, other processes or a file but Python's library, which cannot be
written to; it has an account without rights (as root) or no capabilities (else), and limits of what
it takes. It is process 1 of its namespace, so that nothing outlives it.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER = 0x20000, 0x4000000, 0x8000000, 0x10000000
_NEWPID, _NEWNET = 0x20000000, 0x40000000
_NOSUID, _NODEV, _NOEXEC, _RDONLY = 2, 4, 8, 1
_REMOUNT, _BIND, _REC, _PRIVATE = 32, 4096, 16384, 1 << 18
_DETACH = 2
_NO_NEW_PRIVS, _PDEATHSIG = 38, 1
_CAPABILITIES_V3 = 0x20080522
_NOBODY = 65534

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _leave_namespaces() -> None:
    """Have this process's children in namespaces of their own."""
    flags = _NEWNS | _NEWUTS | _NEWIPC | _NEWPID | _NEWNET
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        _call("unshare", flags)
        return
    _call("unshare", flags | _NEWUSER)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{_NOBODY} {user} 1"),
        ("gid_map", f"{_NOBODY} {group} 1"),
    ):
        Path(f"/proc/self/{name}").write_text(text, encoding="ascii")


def _change_root(root: str, disk: int) -> None:
    """See nothing but an empty disk in memory, and Python's library in it."""
    _call("mount", None, b"/", None, _REC | _PRIVATE, None)  # nothing of it is seen outside
    options = f"size={disk},nr_inodes=1000,mode=777".encode()
    _call("mount", b"tmpfs", root.encode(), b"tmpfs", _NOSUID | _NODEV | _NOEXEC, options)
    mounted: list[Path] = []
    for place in sorted(Path(path).resolve() for path in sys.path if Path(path).is_dir()):
        if any(place.is_relative_to(other) for other in mounted):
            continue
        mounted.append(place)
        inside = f"{root}{place}"
        Path(inside).mkdir(parents=True)
        _call("mount", str(place).encode(), inside.encode(), None, _BIND, None)
        # What the mount was locked to before must be said again: mount_namespaces(7).
        locked = os.statvfs(place).f_flag & (_NOSUID | _NODEV | _NOEXEC)
        flags = _BIND | _REMOUNT | _RDONLY | _NOSUID | _NODEV | locked
        _call("mount", None, inside.encode(), None, flags, None)
    os.chdir(root)
    _call("pivot_root", b".", b".")
    _call("umount2", b".", _DETACH)
    os.chdir("/")


def _drop_rights() -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_V3, 0)
    _call("capset", ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)()))
    _call("prctl", _NO_NEW_PRIVS, 1, 0, 0, 0)


def _limit(seconds: int, memory: int, disk: int) -> None:
    for kind, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, disk),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (value, value))


def _lock_in(limits: dict[str, Any]) -> None:
    """Leave all that a stranger's program has no business with; OSError where that cannot be."""
    _change_root(limits["root"], limits["disk"])
    _drop_rights()
    # A change of the account ends the signal of a parent's end, so that it is asked for now.
    _call("prctl", _PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    _limit(limits["seconds"], limits["memory"], limits["disk"])
    if Path("/etc").exists() or Path("/proc").exists():
        raise OSError("the files of this machine are still to be seen")
    try:
        if os.fork() == 0:
            os._exit(0)
    except OSError:
        return
    raise OSError("a limit of processes is not held to")


def _values(program: str, calls: list[str]) -> dict[str, Any]:
    """What the program's functions give."""
    names: dict[str, Any] = {"__name__": "answer"}
    try:
        exec(compile(program, "answer", "exec"), names)
    except BaseException as error:
        return {"problem": f"{type(error).__name__}: {error}"[:200]}
    values: list[Any] = []
    for call in calls:
        try:
            value = eval(call, dict(names))
            json.dumps(value)
            values.append([value])
        except BaseException as error:
            values.append(f"{type(error).__name__}: {error}"[:200])
    return {"values": values}


def _run(limits: dict[str, Any], task: dict[str, Any], answers: int) -> None:
    """The life of the process that is locked in."""
    try:
        _lock_in(limits)
    except (OSError, ValueError, AttributeError) as error:
        os.write(answers, json.dumps({"refused": str(error)}).encode())
        return
    text = json.dumps(_values(task["program"], task["calls"])).encode()
    if len(text) > limits["answer"]:
        text = json.dumps({"problem": "its values are too long"}).encode()
    os.write(answers, text)


def main() -> int:
    """Run what stands in the standard input; 0 where the process that ran it ended by itself."""
    limits = json.loads(sys.argv[1])
    task = json.load(sys.stdin)
    answers = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    os.close(nothing)
    try:
        _call("prctl", _PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        _leave_namespaces()
        child = os.fork()
    except (OSError, AttributeError) as error:
        os.write(answers, json.dumps({"refused": str(error)}).encode())
        return 1
    if child == 0:
        try:
            _run(limits, task, answers)
        finally:
            os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    # What ends by a signal says so by this number, as a shell does.
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())

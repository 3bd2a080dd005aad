"""The self-test of a version, in a child with a limit of time."""

from __future__ import annotations

import importlib.util
import json
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from kanna._util import processes
from kanna._util.interpreter import file_command, module_command
from kanna.errors import UsageError
from kanna.fleet.manifest import SELFTEST

_MOST_RECORD = 64 << 10
_UNABLE = 3
_LAST = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialSettings:
    """How versions are tested.

    Attributes:
        command: A command of the user's, which gets the folder of a version as its last argument.
        llama_server: llama.cpp's server, for the runner that needs no more than that.
        least_speed: Tokens per second that a version must generate.
        seconds: Most that a test may take.
    """

    command: str = ""
    llama_server: str = ""
    least_speed: float | None = None
    seconds: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """How a test ended.

    Attributes:
        outcome: `passed`, `failed`, or `unable` where it cannot be made here.
        detail: What failed.
        record: The JSON that it printed; "" for none.
    """

    outcome: str
    detail: str
    record: str


def command_of(settings: TrialSettings, folder: Path) -> list[str]:
    """The command that tests a version.

    Args:
        settings: How.
        folder: Of the version.

    Raises:
        UsageError: The command is none.
    """
    if settings.command:
        try:
            words = shlex.split(settings.command)
        except ValueError as error:
            raise UsageError(f"--self-test {settings.command!r}: {error}") from None
        if not words:
            raise UsageError("--self-test names no command")
        return [*words, str(folder)]
    limits = ["--json"]
    if settings.least_speed is not None:
        limits += ["--least-speed", str(settings.least_speed)]
    server = shutil.which(settings.llama_server or "llama-server")
    if settings.llama_server and server is None:
        raise UsageError(f"{settings.llama_server} is no program", expected="llama.cpp's server")
    if server is None:
        return module_command("kanna", "selftest", str(folder), *limits)
    expected = str(folder / SELFTEST)
    return file_command(_runner(), "--expected", expected, "--server", server, *limits)


def _runner() -> str:
    """The file of the runner: its package would load a runtime with it."""
    spec = importlib.util.find_spec("kanna.self_testing")
    assert spec is not None and spec.submodule_search_locations is not None
    return str(Path(spec.submodule_search_locations[0]) / "runner.py")


def test(settings: TrialSettings, folder: Path) -> Trial:
    """Test a version.

    Exit code 0 is a pass and 3 says that it cannot be tested here. Anything else is a failure, a
    crash and a test without end too: a model that does that is none to serve.
    """
    try:
        with processes.started(command_of(settings, folder)) as child:
            output, errors = child.communicate(timeout=settings.seconds)
            code = child.returncode
    except subprocess.TimeoutExpired:
        detail = f"the self-test took more than {settings.seconds:g} s"
        return Trial(outcome="failed", detail=detail, record="")
    except OSError as error:
        return Trial(outcome="unable", detail=f"the self-test cannot be run: {error}", record="")
    record = _record(output)
    if code == 0:
        return Trial(outcome="passed", detail="", record=record)
    last = (errors.strip().splitlines() or output.strip().splitlines() or ["no message"])[-1]
    detail = _failed_checks(record) or f"the self-test ended with {code}: {last[:_LAST]}"
    return Trial(outcome="unable" if code == _UNABLE else "failed", detail=detail, record=record)


def _record(output: str) -> str:
    """What was printed, where it is one small JSON object."""
    if len(output) > _MOST_RECORD:
        return ""
    try:
        values = json.loads(output)
    except (ValueError, RecursionError):
        return ""
    return json.dumps(values) if isinstance(values, dict) else ""


def _failed_checks(record: str) -> str:
    try:
        checks = json.loads(record)["checks"]
        failed = [f"{one['name']}: {one['detail']}" for one in checks if one["ok"] is False]
    except (ValueError, KeyError, TypeError):
        return ""
    return "; ".join(failed)[:1000]

"""Which presets of a source fit this machine, from a child process."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from contextlib import suppress
from typing import Any

from kanna._util.interpreter import module_command
from kanna._util.processes import answer, environment
from kanna.serving.problems import ApiError

_TIME_LIMIT = 300.0
"""Seconds. A model that ships in a package is fetched when it is first asked for."""
_AT_ONCE = 2


def measure(**options: Any) -> dict[str, Any]:
    """The child's side: `kanna.fit` with these arguments."""
    from kanna import fit
    from kanna.report.write import plain

    return plain(fit(**options).to_dict())


class Estimator:
    """Asks `kanna.fit`, a few questions at a time."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def fit(self, task: dict[str, Any]) -> dict[str, Any]:
        """What `kanna.fit` says.

        Args:
            task: Its arguments.

        Raises:
            ApiError: It cannot say, or takes too long.
        """
        async with self._slots:
            process = await asyncio.create_subprocess_exec(
                *module_command(__name__, json.dumps(task)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment(),
            )
            try:
                output, log = await asyncio.wait_for(process.communicate(), _TIME_LIMIT)
            except asyncio.TimeoutError:
                raise ApiError(504, "reading the model took too long", code="timeout") from None
            finally:
                if process.returncode is None:
                    with suppress(ProcessLookupError):
                        process.kill()
        return _parse(output, log)


def _parse(output: bytes, log: bytes) -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads(output.decode().strip().splitlines()[-1])
    except (IndexError, ValueError):
        lines = log.decode("utf-8", "replace").strip().splitlines() or ["no message"]
        raise ApiError(400, f"the model cannot be read: {lines[-1][:500]}") from None
    if "error" not in result:
        return result
    message = result["error"]
    if result["expected"]:
        message += f". Expected: {result['expected']}."
    raise ApiError(400, message, code="cannot_read", param="source", todo=result["todo"])


if __name__ == "__main__":
    sys.exit(answer(measure))

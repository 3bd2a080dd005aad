"""The verb `agent`: a device asks what it should have, tries it, and says how that went."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanna import __version__
from kanna._util import locks
from kanna._util.nearest import absent
from kanna._util.results import Result
from kanna._util.typed import TypedObject, number, text, whole
from kanna.errors import KannaError, NotFoundError
from kanna.fleet.connection import AnswerError, FleetConnection, FleetServer, UnreachableError
from kanna.fleet.device import trial
from kanna.fleet.device.trial import TrialSettings
from kanna.fleet.device.update import Updater, UpdateSettings
from kanna.fleet.device.versions import AgentMemory, DeviceFolder
from kanna.fleet.manifest import DIGEST

__all__ = ["AgentResult", "agent"]

_JITTER = 0.2
_FIRST_WAIT, _LONGEST_WAIT = 5.0, 900.0
_FINAL = ("passed", "failed", "refused")
_NOTHING = "nothing to do"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class AgentResult(Result):
    """What an agent did.

    Attributes:
        current: Digest of the version that is current; None: none yet.
        model: Where the model is, for a service; None: there is none yet.
        outcome: `passed`, `failed`, `refused`, `unable`, `unreachable`, `denied`, or
            `nothing to do`.
        detail: Why.
    """

    current: str | None
    model: str | None
    outcome: str
    detail: str

    @property
    def ok(self) -> bool:
        """Whether it has what it should."""
        return self.outcome in ("passed", _NOTHING)

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return {
            "current": self.current,
            "model": self.model,
            "outcome": self.outcome,
            "detail": self.detail,
        }

    def headline(self) -> str:
        """What was done, and what is current."""
        why = f": {self.detail}" if self.detail else ""
        return f"{self.outcome}{why}; current is {self.current or 'nothing'}"


def agent(
    state: str | Path,
    *,
    server: str,
    key_file: str | Path | None = None,
    ca_file: str | Path | None = None,
    insecure_http: bool = False,
    key: str | Path | None = None,
    self_test: str = "",
    llama_server: str | Path | None = None,
    least_speed: float | None = None,
    test_limit: float = 600.0,
    on_swap: str = "",
    once: bool = False,
    remark: Callable[[str], None] = lambda _: None,
) -> AgentResult:
    """Keep a device at the model that its fleet wants, until the process is interrupted.

    Args:
        state: Folder of its versions; `current` in it names the one to serve.
        server: Address of the fleet's server.
        key_file: File with the key of this device; None: $KANNA_FLEET_KEY.
        ca_file: Certificates that HTTPS is held to, in PEM; None: the system's.
        insecure_http: Talk plain HTTP to other machines, too.
        key: Public key (PEM) of who must have signed what comes; None: nobody.
        self_test: A command that tests a version, given its folder as the last argument: exit code
            0 passed, 3 not testable here, else failed. Empty: the runner with llama.cpp's server
            where there is one, else `kanna selftest`.
        llama_server: llama.cpp's server; None: `llama-server` on the PATH.
        least_speed: Tokens per second that a version must generate.
        test_limit: Seconds that a self-test may take.
        on_swap: A command for a shell, run when another version is current; where it fails, the
            one before is current again.
        once: Ask once, follow that, and end.
        remark: Called with what people may want to know.

    Raises:
        UsageError: The address, a key or the self-test cannot be used.
        OutputError: Another agent has the folder.
    """
    connection = FleetConnection(
        FleetServer(url=server, key_file=key_file, ca_file=ca_file, insecure_http=insecure_http)
    )
    if key is not None and not Path(key).is_file():
        raise NotFoundError(f"the key {absent(key)}", expected="a public key as PEM")
    test = TrialSettings(
        command=self_test,
        llama_server=str(llama_server or ""),
        least_speed=least_speed,
        seconds=test_limit,
    )
    trial.command_of(test, Path())  # a wrong option is no fault of the first version that comes
    settings = UpdateSettings(key=Path(key) if key else None, trial=test, on_swap=on_swap)
    folder = Path(state)
    folder.mkdir(parents=True, exist_ok=True)
    with locks.holding(folder / "agent", "agent"):
        loop = AgentLoop(connection, DeviceFolder(folder), settings, remark)
        return loop.once() if once else loop.run()


class AgentLoop:
    """An agent between its start and its end.

    Args:
        connection: To the server.
        home: Its folder.
        settings: What versions are held to.
        remark: Called with what people may want to know.
    """

    def __init__(
        self,
        connection: FleetConnection,
        home: DeviceFolder,
        settings: UpdateSettings,
        remark: Callable[[str], None],
    ) -> None:
        self._connection, self._home, self._remark = connection, home, remark
        self._updater = Updater(connection, home, settings)
        self._poll = 60.0
        self._failures = 0
        home.tidy(home.memory().good, home.memory().wanted)

    def run(self) -> AgentResult:
        """Ask again and again; a wrong key and a server that is away end nothing."""
        while True:
            result = self.once()
            away = result.outcome in ("unreachable", "denied", "unable")
            self._failures = self._failures + 1 if away else 0
            if result.outcome != _NOTHING:
                self._remark(result.headline())
            time.sleep(self._wait())

    def _wait(self) -> float:
        """Seconds to the next question: apart from those of other devices, longer in trouble."""
        wait = self._poll
        if self._failures:
            longest = max(self._poll, _LONGEST_WAIT)
            wait = min(longest, min(self._poll, _FIRST_WAIT) * 2 ** min(self._failures, 20))
        return wait * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311

    def once(self) -> AgentResult:
        """Ask once, and follow."""
        try:
            return self._once()
        except UnreachableError as error:
            return self._result("unreachable", error.found)
        except AnswerError as error:
            return self._result("denied", error.found)
        except KannaError as error:  # of this device, such as a program that was removed
            return self._result("unable", error.found)
        except OSError as error:  # a full disk, say: later there may be room
            return self._result("unable", f"{self._home.folder} cannot be used: {error}")

    def _once(self) -> AgentResult:
        self._report()
        memory = self._home.memory()
        order, wanted = self._ask(memory)
        if wanted is None:
            return self._result(_NOTHING, "nothing is wanted of this device")
        if order < memory.highest:
            return self._result(
                "refused", f"instruction {order} was replayed: {memory.highest} was seen"
            )
        if order == memory.number and memory.outcome in _FINAL:
            same = memory.outcome != "passed" or self._home.current() == wanted
            if memory.wanted == wanted and same:
                return self._result(_NOTHING, "")
        memory.highest, memory.wanted = order, wanted
        self._home.remember(memory)
        tested = self._updater.follow(wanted)
        memory = self._home.memory()
        memory.number, memory.outcome, memory.detail = order, tested.outcome, tested.detail
        memory.selftest, memory.reported = tested.record, False
        self._home.remember(memory)
        self._report()
        return self._result(tested.outcome, tested.detail)

    def _ask(self, memory: AgentMemory) -> tuple[int, str | None]:
        """Number of an instruction, and the digest that it wants."""
        body = {
            "current": self._home.current(),
            "number": memory.number,
            "outcome": memory.outcome,
            "version": __version__,
        }
        try:
            answer = TypedObject.of(self._connection.ask("POST", "/v1/poll", body), "the answer")
            self._poll = answer.get("poll_seconds", number(0.05, 86_400), 60.0)
            wanted = answer.get("wanted", text(64, 64), None)
            order = answer.need("number", whole(0, 1 << 53))
        except (AnswerError, UnreachableError):
            raise
        except KannaError as error:
            raise UnreachableError(f"{self._connection.name} answers {error.found}") from None
        if wanted is not None and not DIGEST.fullmatch(wanted):
            raise UnreachableError(f"{self._connection.name} wants {wanted!r}")
        return order, wanted

    def _report(self) -> None:
        """Say how the last instruction ended, until the server has it."""
        memory = self._home.memory()
        if memory.reported or not DIGEST.fullmatch(memory.wanted):
            return
        body = {
            "number": memory.number,
            "digest": memory.wanted,
            "current": self._home.current(),
            "outcome": memory.outcome,
            "detail": memory.detail[:2000],
            "selftest": json.loads(memory.selftest) if memory.selftest else None,
        }
        try:
            self._connection.ask("POST", "/v1/reports", body)
        except AnswerError as error:
            if error.status in (401, 403, 404):
                raise
            self._remark(f"the server does not take the report: {error.found}")
        memory.reported = True
        self._home.remember(memory)

    def _result(self, outcome: str, detail: str) -> AgentResult:
        model = self._home.model()
        return AgentResult(
            current=self._home.current(),
            model=str(model) if model else None,
            outcome=outcome,
            detail=detail,
        )

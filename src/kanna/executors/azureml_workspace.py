"""A workspace of Azure ML: a job is submitted to it, followed to its end, and cancelled by Ctrl-C.

Everything goes through Azure's SDK, with the credentials that azure-identity finds.
"""

from __future__ import annotations

import importlib
import io
import json
import re
import secrets
import sys
import time
from collections import deque
from collections.abc import Callable, Container, Generator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kanna._util import extras, outgoing, own_files
from kanna._util.disk import explain
from kanna._util.units import format_size
from kanna.errors import KannaError, SourceError
from kanna.escaping import one_line, shell_line
from kanna.executors.azureml_sdk import EXTRA, hushed, sdk
from kanna.executors.azureml_steps import PipelineChildren
from kanna.executors.base import JobOutcome

SHOWN_LINES = 40
"""Of the log of a job that failed."""
_COMPLETED = "Completed"
_HEADING = ("Execution Summary", "=================")
"""What the SDK prints after the log."""
_GUIDES = re.compile(r"(See the|Visit|To mitigate|Please visit)[^;]*?https?://\S+( to[^.]*\.)?")
_LOG_IN = (
    "`az login`, a managed identity, or AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkspaceName:
    """Which workspace."""

    subscription: str
    resource_group: str
    workspace: str

    def __str__(self) -> str:
        return (
            f"workspace {self.workspace} in the resource group {self.resource_group} of the "
            f"subscription {self.subscription}"
        )

    def flags(self) -> list[str]:
        """It, as `az ml` wants it."""
        return [
            *("-g", self.resource_group),
            *("-w", self.workspace),
            *("--subscription", self.subscription),
        ]


class AzureWorkspace:
    """A workspace that answers.

    Args:
        name: Which.
        remark: Is told of states and of the lines of logs.

    Raises:
        MissingError: The SDK is not installed here.
        SourceError: There are no credentials, or no such workspace, or it does not answer.
    """

    def __init__(self, name: WorkspaceName, remark: Callable[[str], None]) -> None:
        extras.require(EXTRA, "a job in a workspace of Azure ML")
        outgoing.require(f"the {name}")
        self._name, self._remark = name, remark
        self._sdk = sdk()
        identity: Any = importlib.import_module("azure.identity")
        with self._explained():
            self._client = self._sdk.MLClient(
                identity.DefaultAzureCredential(),
                name.subscription,
                name.resource_group,
                name.workspace,
                show_progress=False,
                enable_telemetry=False,
            )
            self._client.workspaces.get(name.workspace)

    def run(self, folder: Path, *, fetch: bool = False) -> JobOutcome:
        """Run the job whose files are in a folder, and follow it to its end.

        Args:
            folder: Where `job.yml` is.
            fetch: Whether the folder of the run is brought here when the job has completed, under
                the job's name.

        Raises:
            SourceError: The service refuses it.
            KeyboardInterrupt: By Ctrl-C, after the job was cancelled.
        """
        with self._explained():
            named = self._environment(folder / "environment.yml")[:40]
            for path in sorted((folder / "data").glob("*.yml")):
                self._data(path)
            job = self._sdk.load_job(str(folder / "job.yml"))
            # Named here, so that it can be cancelled before the service has answered.
            job.name = f"{named}-{time.strftime('%Y%m%d%H%M%S')}-{secrets.token_hex(3)}"
            try:
                self._remark(f"the job {job.name} is submitted to the {self._name}")
                submitted = _sent(self._client.jobs, job)
                if submitted.studio_url:
                    self._remark(f"its page: {submitted.studio_url}")
                outcome = self._followed(submitted)
            except KeyboardInterrupt:
                self._cancel(job.name)
                raise
            return self._fetched(outcome, folder / job.name) if fetch and outcome.ok else outcome

    def _environment(self, path: Path) -> str:
        """Make the environment, where it is not there; returns its name."""
        wanted = self._sdk.load_environment(str(path))
        if not self._has(self._client.environments, wanted):
            self._remark(f"the environment {wanted.name} is made, version {wanted.version}")
            _sent(self._client.environments, wanted)
        return str(wanted.name)

    def _data(self, path: Path) -> None:
        wanted = self._sdk.load_data(str(path))
        if not self._has(self._client.data, wanted):
            size = format_size(_bytes(Path(wanted.path)))
            version = f"{wanted.name}, version {wanted.version}"
            self._remark(f"{wanted.path} ({size}) is uploaded as {version}")
            _sent(self._client.data, wanted)

    def _has(self, kind: Any, wanted: Any) -> bool:
        """Whether something of a name and version is there: the version is a hash of it."""
        absent: Any = importlib.import_module("azure.core.exceptions").ResourceNotFoundError
        try:
            kind.get(wanted.name, wanted.version)
        except absent:
            return False
        return True

    def _followed(self, submitted: Any) -> JobOutcome:
        """What became of a job, whose log and states are told while it runs."""
        failed: Any = importlib.import_module("azure.ai.ml.exceptions").JobException
        name, why = submitted.name, ""
        states: list[str] = []
        pipeline = submitted.type == "pipeline"
        children = PipelineChildren(self._client.jobs, name, self._remark)

        def state() -> str:
            if pipeline:
                children.look()
            status = self._client.jobs.get(name).status
            now = str(getattr(status, "value", status))  # a text, where the SDK does not know it
            if states[-1:] != [now]:
                states.append(now)
                self._remark(f"{name}: {now}")
            return now

        known = {f"RunId: {name}", f"Web View: {submitted.studio_url}", *_HEADING}
        log: Any = LogLines(self._remark, state, known)
        try:
            # The SDK prints the log; on standard output it would be in the way of `--json`.
            with redirect_stdout(log):
                self._client.jobs.stream(name)
        except failed as error:
            if isinstance(error.__cause__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            why = _reason(str(error))
        log.end()
        ended = state()
        ok = ended == _COMPLETED
        broken = children.failed()
        if broken:
            titles = ", ".join(child.title for child in broken)
            why = " ".join(filter(None, (f"{titles} failed.", why)))
        return JobOutcome(
            name=name,
            state=ended,
            ok=ok,
            url=submitted.studio_url or "",
            why=why,
            todo=_advice(why) if why else "",
            log=[] if ok else list(log.last),
            commands=[
                shell_line(["az", "ml", "job", "download", "--name", *words, *self._name.flags()])
                for words in (
                    [[name, "--output-name", "run"]]
                    if ok
                    else [[one, "--all"] for one in (name, *(child.name for child in broken))]
                )
            ],
        )

    def _fetched(self, outcome: JobOutcome, place: Path) -> JobOutcome:
        """Bring the folder of a run here."""
        self._remark(f"the folder of the run is fetched into {place}")
        partial = own_files.fresh_name(place)
        try:
            # The SDK adds the name of the output, and prints a bar.
            with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
                self._client.jobs.download(outcome.name, download_path=partial, output_name="run")
            made = partial / "named-outputs" / "run"
            if not made.is_dir():
                raise SourceError(
                    f"the job {outcome.name} has left no output `run`",
                    expected="the folder of a run",
                    todo=outcome.commands[0],
                )
            made.replace(place)
        except OSError as error:
            raise explain(error, place) from error
        finally:
            own_files.remove(partial)
        return replace(outcome, folder=str(place), commands=[])

    def _cancel(self, name: str) -> None:
        """Ask the service to end a job, without waiting until it has."""
        by_hand = shell_line(["az", "ml", "job", "cancel", "--name", name, *self._name.flags()])
        try:
            self._client.jobs.begin_cancel(name)
        except (Exception, KeyboardInterrupt) as error:  # of many classes
            why = one_line(str(error))[:200] or type(error).__name__
            self._remark(f"the job {name} may still run ({why}). To cancel it: {by_hand}")
        else:
            self._remark(f"the job {name} is being cancelled")

    @contextmanager
    def _explained(self) -> Generator[None]:
        """Say what the service or the credentials lack as errors of ours."""
        problems: Any = importlib.import_module("azure.core.exceptions")
        own: Any = importlib.import_module("azure.ai.ml.exceptions")
        try:
            with hushed():
                yield
        except KannaError:
            raise
        except problems.ClientAuthenticationError as error:
            raise SourceError(
                f"no credentials for the {self._name}: {_attempts(str(error))}",
                expected="credentials that azure-identity finds",
                todo=_LOG_IN,
            ) from None
        except problems.ResourceNotFoundError as error:
            raise SourceError(
                f"the {self._name} is not there, or has not what the job names: {_said(error)}",
                todo="check the three names: `az ml workspace list`, `az account list`",
            ) from None
        except problems.HttpResponseError as error:
            raise SourceError(
                f"the {self._name} refuses: {_said(error)}", todo=_advice(_said(error))
            ) from None
        except own.MlException as error:  # an AzureError, too
            raise SourceError(f"Azure's SDK refuses: {_said(error)}") from None
        except problems.AzureError as error:
            raise SourceError(
                f"the {self._name} does not answer: {_said(error)}",
                todo="is this machine connected, and does a proxy or firewall let it through?",
            ) from None


class LogLines:
    """What the SDK prints, line by line, in the place of standard output.

    No stream of `io`, which would flush once more when it is collected.

    Args:
        tell: Is told of each line.
        each_round: Called where the SDK is about to wait: it flushes before it does.
        known: Lines that need not be told.
    """

    def __init__(
        self, tell: Callable[[str], None], each_round: Callable[[], object], known: Container[str]
    ) -> None:
        self._tell, self._each_round, self._known, self._rest = tell, each_round, known, ""
        self._outside = sys.stdout
        self.last: deque[str] = deque(maxlen=SHOWN_LINES)

    def write(self, text: str, /) -> int:
        """Tell of the lines that are whole."""
        *whole, self._rest = (self._rest + text).split("\n")
        with redirect_stdout(self._outside):  # who is told may print
            for line in whole:
                if line.strip() and line not in self._known:
                    self.last.append(line)
                    self._tell(line)
        return len(text)

    def flush(self) -> None:
        """A round has ended."""
        with redirect_stdout(self._outside):
            self._each_round()

    def end(self) -> None:
        """Tell of a last line without an end."""
        if self._rest:
            self.write("\n")


def _sent(kind: Any, wanted: Any) -> Any:
    """What the service makes of something: the SDK prints blank lines around it."""
    with redirect_stderr(io.StringIO()):
        return kind.create_or_update(wanted)


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _attempts(text: str) -> str:
    """What azure-identity tried, without its links."""
    lines = [line.strip() for line in text.splitlines()]
    tried = [line for line in lines if "Credential:" in line]
    attempts = one_line("; ".join(tried) or " ".join(filter(None, lines)))
    return " ".join(_GUIDES.sub("", attempts).split())[:1500]


def _said(error: Any) -> str:
    """What a service says, on a line."""
    inner = getattr(error, "error", None)
    code, message = getattr(inner, "code", ""), getattr(inner, "message", "")
    text = f"{code}: {message}" if code and message else str(getattr(error, "message", "") or error)
    return " ".join(text.split())[:600]


def _reason(text: str) -> str:
    """Why a job failed, of the JSON that the SDK says it with."""
    begin = text.find("{")
    try:
        details = json.loads(text[begin : text.rindex("}") + 1])
        return " ".join(str(details["error"]["message"]).split())[:600]
    except (ValueError, KeyError, TypeError):
        return " ".join(text.split())[:600]


def _advice(text: str) -> str:
    """What to do about what a service says."""
    low = text.lower()
    if "quota" in low:
        return (
            "a smaller instance_type, a cluster of yours (compute), or more quota: "
            "https://ml.azure.com/quota"
        )
    if "authorization" in low or "forbidden" in low:
        return "the role AzureML Data Scientist in that workspace, or another `az login`"
    return ""

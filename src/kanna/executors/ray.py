"""Ray: the steps of a recipe on the machines of a cluster, several at a time.

Each step has an actor, which reserves what the step needs and can be ended at once. Its inputs are
sent to where it runs, its files are brought back and held to their hashes; the folder of the run is
the same as that of a run here. A step whose machine or process was lost is started again.
"""

from __future__ import annotations

import importlib
import os
import queue
import re
import socket
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from kanna import __version__
from kanna._util import extras, outgoing
from kanna.errors import KannaError, MissingError, SourceError, UsageError
from kanna.executors.base import Executor
from kanna.executors.pools import StepTask
from kanna.executors.settings import option
from kanna.executors.step_worker import StepWorker
from kanna.executors.transport import bring, send

EXTRA = "ray"
CONNECT_SECONDS = 10
LOSSES = (
    "RayActorError",
    "OutOfMemoryError",
    "NodeDiedError",
    "WorkerCrashedError",
    "ObjectLostError",
)
"""What Ray raises where a machine or a process went, also with bytes that were on their way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RayOptions:
    """Of a cluster of Ray, and of what each step reserves in it."""

    address: str = option(
        "address of the cluster: HOST:PORT on a machine of it, ray://HOST:10001 from elsewhere; "
        "by default $RAY_ADDRESS, else the one that this machine belongs to",
        "auto",
    )
    cpus: float = option("cores that a step reserves", 1)
    gpus: float = option("GPUs that a step reserves", 0)
    memory_gb: float = option("gigabytes of memory that a step reserves", 0)
    steps: dict[str, dict[str, float]] = option(
        "other reservations of single steps: {STEP: {cpus: 8, gpus: 1, memory_gb: 32}}",
        default_factory=dict[str, "dict[str, float]"],
    )
    parallel: int = option("steps that run at a time at most", 16)
    retries: int = option("how often a step is started again whose machine was lost", 3)
    install: str = option("what pip installs on the machines as kanna; by default it is there", "")
    scratch: str = option("folder on the machines for inputs and results", "")

    def reserved(self, step: str) -> dict[str, float]:
        """What a step reserves."""
        own = self.steps.get(step, {})
        return {
            name: own.get(name, float(getattr(self, name)))
            for name in ("cpus", "gpus", "memory_gb")
        }


class RayPool:
    """Steps in a cluster.

    Args:
        options: Which cluster, and what steps reserve.
        remark: Is told of machines that were lost.

    Raises:
        MissingError: Ray is not installed here.
        UsageError: A reservation has another name.
        SourceError: The cluster cannot be reached.
    """

    def __init__(self, options: RayOptions, remark: Callable[[str], None]) -> None:
        extras.require(EXTRA, "the executor ray")
        for step, given in options.steps.items():
            if unknown := given.keys() - {"cpus", "gpus", "memory_gb"}:
                raise UsageError(
                    f"{step} reserves {', '.join(sorted(unknown))}",
                    expected="cpus, gpus, memory_gb",
                )
        if not re.match(r"(ray://)?(127\.|localhost:|local$)", options.address):
            outgoing.require(f"the cluster at {options.address}")  # its library connects unheard
        self._options, self._remark = options, remark
        self._ray = _connected(options)
        self._ended: queue.Queue[tuple[str, KannaError | None]] = queue.Queue()
        self._threads = ThreadPoolExecutor(max(1, options.parallel), "kanna-ray")
        self._actors: dict[str, Any] = {}
        self._lock, self._closing = threading.Lock(), False

    @property
    def slots(self) -> int:
        """How many may have been started and not ended."""
        return max(1, self._options.parallel)

    def start(self, task: StepTask) -> None:
        """Begin a step."""
        needed = self._options.reserved(task.step)
        if not any(_fits(node, needed) for node in self._ray.nodes() if node.get("Alive")):
            words = ", ".join(f"{name} {value:g}" for name, value in needed.items() if value)
            self._remark(f"{task.id} waits: no machine of the cluster has {words} now")
        self._threads.submit(self._perform, task)

    def wait(self) -> Iterable[tuple[str, KannaError | None]]:
        """Wait until a step has ended."""
        while True:
            try:
                return [self._ended.get(timeout=0.5)]  # Ctrl-C is heard in between
            except queue.Empty:
                continue

    def close(self) -> None:
        """End the actors, and leave the cluster."""
        self._closing = True
        with self._lock:
            for actor in self._actors.values():
                self._ray.kill(actor)
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._ray.shutdown()

    def _perform(self, task: StepTask) -> None:
        try:
            self._ended.put((task.id, self._attempts(task)))
        except Exception as error:
            self._ended.put((task.id, _problem(error)))

    def _attempts(self, task: StepTask) -> KannaError | None:
        """Run a step until it has ended; why it could not be run, if it could not."""
        lost = tuple(getattr(self._ray.exceptions, name) for name in LOSSES)
        last = ""
        for attempt in range(self._options.retries + 1):
            actor = self._actor(task)
            try:
                self._attempt(task, actor)
                return None
            except lost as error:
                if self._closing:
                    return KannaError("the run was ended")
                if "No module named" in str(error):
                    raise
                last = str(error).strip().splitlines()[0]
                if attempt < self._options.retries:
                    again = f"started again, {attempt + 1} of {self._options.retries}"
                    self._remark(f"{task.id} was lost ({last}): {again}")
            finally:
                with self._lock:
                    self._actors.pop(task.id, None)
                self._ray.kill(actor)
        return KannaError(
            f"the machine of {task.id} was lost {self._options.retries + 1} times: {last}",
            todo="the logs of the cluster (`ray logs`) say why; more memory, by memory_gb?",
        )

    def _actor(self, task: StepTask) -> Any:
        needed = self._options.reserved(task.step)
        kind = self._ray.remote(StepWorker).options(
            num_cpus=needed["cpus"],
            num_gpus=needed["gpus"],
            memory=needed["memory_gb"] * 1e9 or None,
            max_restarts=0,
        )
        with self._lock:
            if self._closing:
                raise KannaError("the run was ended")
            self._actors[task.id] = kind.remote(self._options.scratch)
            return self._actors[task.id]

    def _attempt(self, task: StepTask, actor: Any) -> None:
        def call(name: str, *given: Any) -> Any:
            return self._ray.get(getattr(actor, name).remote(*given))

        there = call("about")
        if there["kanna"] != __version__:
            raise MissingError(
                f"{there['machine']} has kanna {there['kanna']}", expected=f"kanna {__version__}"
            )
        places = {str(one.path): send(one, call) for one in task.reads}
        files = call("perform", task.work, task.key, task.id, places)
        bring(files, task.folder, partial(call, "read", task.key), task.id)
        call("finish", task.key)


def _connected(options: RayOptions) -> Any:
    """Ray, in the cluster."""
    ray: Any = importlib.import_module("ray")  # not this file
    environment: dict[str, Any] = {}
    if options.install:
        environment["pip"] = [options.install]
    address = options.address
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", address)
    try:
        _knock(address)
        ray.init(
            address=address,
            runtime_env=environment or None,
            log_to_driver=False,
            logging_level="ERROR",
            namespace="kanna",
        )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise SourceError(
            f"the cluster at {address} cannot be reached: {str(error).splitlines()[0]}",
            expected="a cluster of Ray, started with `ray start`",
            todo="--on-set address=HOST:PORT, or ray://HOST:10001 from outside of it",
        ) from None
    return ray


def _knock(address: str) -> None:
    """Raise OSError where nothing listens at an address: Ray itself would ask for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()


def _fits(node: dict[str, Any], needed: dict[str, float]) -> bool:
    has = node.get("Resources", {})
    return (
        has.get("CPU", 0) >= needed["cpus"]
        and has.get("GPU", 0) >= needed["gpus"]
        and has.get("memory", 0) >= needed["memory_gb"] * 1e9
    )


def _problem(error: Exception) -> KannaError:
    """Why a step could not be run."""
    cause = getattr(error, "cause", error)
    if isinstance(cause, KannaError):
        return cause
    text = str(error)
    if "No module named 'kanna'" in text:
        return MissingError(
            "kanna is not installed on a machine of the cluster",
            expected=f"kanna {__version__} on every machine",
            todo="install it there, or --on-set install=URL of a wheel",
        )
    return KannaError(f"{type(cause).__name__}: {(text.strip().splitlines() or [''])[-1]}")


EXECUTOR = Executor(
    summary="Ray: the machines of a cluster, several steps at a time",
    options=RayOptions,
    extra=EXTRA,
    pool=RayPool,
)

"""A model on a device and on the CPU, by one llama.cpp: what ran where, and whether it is right."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kanna._util import own_files
from kanna._util.nearest import absent
from kanna._util.processes import ask
from kanna._util.progress import Progress, Silent
from kanna.checks import Check
from kanna.errors import FormatError, GateError, KannaError, MissingError, NotFoundError
from kanna.hardware.threads import choose_threads
from kanna.libllama import builds
from kanna.libllama.devices import WHEN_LOST
from kanna.offload import checks, selection
from kanna.runtimes.llamacpp import check_header


@dataclass(frozen=True, slots=True, kw_only=True)
class OffloadProof:
    """What a model's run on a device came to.

    Attributes:
        backend: What was asked for.
        runtime: Which llama.cpp computed.
        devices: Names and descriptions of the devices.
        checks: Layers, weights, operators, and the logits beside the CPU's.
        operators: How often each ran, by device.
        weights: Bytes of tensors by buffer.
        splits: Parts of the last graph on different devices.
    """

    backend: str
    runtime: str
    devices: list[str]
    checks: list[Check]
    operators: dict[str, dict[str, int]]
    weights: dict[str, int]
    splits: int

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(check.ok for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON has it."""
        return asdict(self)


def prove(
    path: str | Path, backend: str, *, threads: int | None = None, progress: Progress | None = None
) -> OffloadProof:
    """Run a model on a backend and on the CPU, and hold the first run to what was asked for.

    Args:
        path: A GGUF.
        backend: One of `selection.BACKENDS`.
        threads: Threads of the CPU; None: one per physical core that other programs leave free.
        progress: Where progress is reported.

    Raises:
        UsageError: No such backend, or no such file.
        MissingError: No build of it is here, or it sees no device.
        FormatError: Not a GGUF.
        KannaError: The run ended: a lost device, a driver's crash, no memory on the device.
    """
    return prove_with(
        selection.select(backend), Path(path), backend, threads=threads, progress=progress
    )


def require_file(path: Path) -> None:
    """Raise KannaError for what llama.cpp does not run.

    Args:
        path: What was named.

    Raises:
        NotFoundError: There is no such file.
        FormatError: Not a GGUF.
    """
    if not path.exists():
        raise NotFoundError(absent(path), expected="a .gguf file")
    if path.is_dir():
        raise FormatError(f"{path} is a folder", expected="a .gguf file, which llama.cpp runs")
    check_header(path)


def prove_with(
    name: str,
    path: Path,
    backend: str,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> OffloadProof:
    """The same with a build that was chosen.

    Args:
        name: Of the build.
        path: A GGUF.
        backend: What it computes on.
        threads: Threads of the CPU.
        progress: Where progress is reported.
    """
    require_file(path)
    task = {"path": str(path), "threads": threads or choose_threads().count}
    variables = {builds.VARIABLE: name, "GGML_NO_BACKTRACE": "1"}
    bar = progress or Silent()
    bar.start(f"offload to {backend}", 2, "runs")
    try:
        with own_files.scratch() as folder:
            runs: list[dict[str, Any]] = []
            for number, on in enumerate((backend, "cpu")):
                bar.advance(0, on)
                own = {"backend": on, "logits": str(folder / f"{number}.npy")}
                doing = f"computing {path.name} on {on} with the runtime {name}"
                runs.append(_run(task | own, doing, variables))
                bar.advance(1)
                if not runs[0]["devices"] and on != "cpu":
                    raise _no_device(backend, name, runs[0]["why"])
            made, reference = (np.load(folder / f"{number}.npy") for number in (0, 1))
    finally:
        bar.finish()
    weights: dict[str, int] = {}
    for buffer, size in runs[0]["weights"]:
        weights[buffer] = weights.get(buffer, 0) + size
    return OffloadProof(
        backend=backend,
        runtime=runs[0]["runtime"],
        devices=[f"{d['name']}: {d['description']}" for d in runs[0]["devices"]],
        checks=checks.hold(backend, runs[0], made, reference),
        operators=runs[0]["operators"],
        weights=weights,
        splits=runs[0]["splits"],
    )


def require(
    path: str | Path, backend: str, *, threads: int | None = None, progress: Progress | None = None
) -> OffloadProof:
    """The same; GateError where a check failed.

    Args:
        path: A GGUF.
        backend: One of `selection.BACKENDS`.
        threads: Threads of the CPU; None: one per physical core that other programs leave free.
        progress: Where progress is reported.
    """
    proof = prove(path, backend, threads=threads, progress=progress)
    for check in proof.checks:
        if not check.ok:
            raise GateError(
                f"{backend} was asked for with {Path(path).name}; {check.name}: {check.detail}",
                expected=f"all of it on {backend}, with the logits of the CPU",
                todo=f"kanna verify {path} --backend {backend} shows every check",
            )
    return proof


def _run(task: dict[str, Any], doing: str, variables: dict[str, str]) -> dict[str, Any]:
    try:
        return ask("kanna.offload.worker", task, doing, variables=variables)
    except MissingError:
        raise
    except KannaError as error:
        if error.expected:
            raise
        raise KannaError(
            error.found,
            expected="a device that computes to the end",
            todo=WHEN_LOST,
        ) from error


def _no_device(backend: str, name: str, why: str) -> MissingError:
    return MissingError(
        f"the runtime {name} sees no device of {backend}: {why}",
        expected=f"a device of {backend} with its driver",
        todo="install the driver; `kanna doctor` shows the devices of this machine",
    )

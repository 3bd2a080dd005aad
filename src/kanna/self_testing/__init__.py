"""The verb `selftest`: whether an artefact is and answers what it did where it was proved."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kanna import runtimes, signing
from kanna._util.atomic import write_json
from kanna._util.bars import shown
from kanna._util.digest import sha256
from kanna._util.nearest import absent
from kanna._util.progress import Progress
from kanna._util.results import Result, ResultTable
from kanna._util.units import Size, optional_size
from kanna.checks import Check
from kanna.errors import FormatError, GateError, MissingError, NotFoundError, UsageError
from kanna.runtimes.base import Engine
from kanna.self_testing import expectations, runner
from kanna.sources import adapter, locate

__all__ = ["SelftestResult", "selftest"]

_NEW_TOKENS = 32


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SelftestResult(Result):
    """What a self-test says.

    Attributes:
        artefact: The file or folder.
        status: `passed`, `failed`, or `written` where expectations were written.
        checks: In the order they were made.
        tokens_per_second: New tokens per second; None where it was not measured.
        memory_bytes: What the runtime allocated.
        expected: The file of the expectations.
        seconds: Time it took.
    """

    artefact: str
    status: str
    checks: Sequence[Check]
    tokens_per_second: float | None
    memory_bytes: int | None
    expected: str
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return self.status != "failed"

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return asdict(self)

    def headline(self) -> str:
        """The verdict, and what failed."""
        failed = [f"{c.name}: {c.detail}" for c in self.checks if c.ok is False]
        return "; ".join([self.status, *failed[:2]])

    def tables(self) -> Sequence[ResultTable]:
        """Every check."""
        marks = {True: "✓", False: "✗", None: "–"}
        rows = [(marks[check.ok], check.name, check.detail) for check in self.checks]
        return [ResultTable(columns=("", "check", "detail"), rows=rows)]


def selftest(
    artefact: str | Path,
    *,
    expected: str | Path | None = None,
    write: bool = False,
    key: str | Path | None = None,
    least_speed: float | None = None,
    most_memory: Size | None = None,
    threads: int | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> SelftestResult:
    """Check on a device that a file is, and answers, what it did where it was checked.

    Hashes, the signature of a package, loading, chat template, tokens and log probabilities at
    eight places of a text, speed and memory.

    Args:
        artefact: A GGUF or a folder, any reference to one, or a package with a selftest.json.
        expected: The expectations; None: selftest.json of a package, or MODEL.selftest.json.
        write: Write the expectations of what it answers here, rather than test.
        key: The public key (PEM) of who must have signed the package.
        least_speed: Tokens per second that it must generate.
        most_memory: Bytes, as 2GB, that the runtime may allocate.
        threads: Threads to use.
        offline: Use only what is on this machine.
        progress: Where hashing is reported.

    Raises:
        UsageError: There are no expectations.
        UnsupportedError: It is an adapter.
        SourceError: There is no such file.
        MissingError: Its runtime is not installed here.
    """
    begin, limits = time.perf_counter(), (least_speed, optional_size(most_memory))
    location = locate(artefact, offline=offline, check=False, progress=shown(progress))
    if not location.exists():
        raise NotFoundError(absent(location), expected="a file, a folder or a package")
    packaged = location / runner.NAME
    is_package = location.is_dir() and packaged.is_file()
    file = Path(expected) if expected else packaged if is_package else expectations.beside(location)
    if write:
        return _write(location, file, threads, begin)
    if not file.is_file():
        adapter.refuse_path(location)
        raise UsageError(
            f"there are no expectations at {file}",
            todo=f"where it was proved: kanna selftest {location} --write",
        )
    values = _read(file)
    home = location if is_package else location.parent
    checks = [_check(runner.check_files(home, values))]
    if key is not None:
        checks.append(_signature(location, Path(key)))
    speed: float | None = None
    memory: int | None = None
    if all(check.ok for check in checks):
        more, speed, memory = _run(home / values["artefact"], values, threads, limits)
        checks += more
    return SelftestResult(
        artefact=str(location),
        status="failed" if any(check.ok is False for check in checks) else "passed",
        checks=tuple(checks),
        tokens_per_second=speed,
        memory_bytes=memory,
        expected=str(file),
        seconds=time.perf_counter() - begin,
    )


def made(artefact: Path, prefix: str, threads: int | None = None) -> dict[str, Any]:
    """The expectations of an artefact, from what it answers here.

    Args:
        artefact: The file or folder.
        prefix: The path from the folder of the expectations to the artefact's own; "" for the same.
        threads: Threads to use.

    Raises:
        MissingError: Its runtime is not installed here.
    """
    files = expectations.files_of(artefact, prefix)
    hashes = {place: sha256(path) for place, path in files.items()}
    with _opened(artefact, threads) as engine:
        return expectations.record(engine, artefact, f"{prefix}{artefact.name}", hashes)


def _write(location: Path, file: Path, threads: int | None, begin: float) -> SelftestResult:
    write_json(file, made(location, "", threads))
    return SelftestResult(
        artefact=str(location),
        status="written",
        checks=(),
        tokens_per_second=None,
        memory_bytes=None,
        expected=str(file),
        seconds=time.perf_counter() - begin,
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        return runner.read(file)
    except runner.SelftestError as error:
        raise FormatError(str(error), todo="kanna selftest MODEL --write") from error


def _signature(location: Path, key: Path) -> Check:
    try:
        signing.verify(location, key)
    except GateError as error:
        return Check(name="signature", ok=False, detail=error.found)
    return Check(name="signature", ok=True, detail="good")


def _opened(artefact: Path, threads: int | None) -> Engine:
    runtime = runtimes.of(artefact)
    here = runtime.available()
    if not here.ok:
        raise MissingError(here.remark, todo=here.how_to_install)
    return runtime.open(artefact, context=512, threads=threads)


def _run(
    artefact: Path,
    values: dict[str, Any],
    threads: int | None,
    limits: tuple[float | None, int | None],
) -> tuple[list[Check], float | None, int | None]:
    """The checks in the runtime, tokens per second and bytes."""
    try:
        engine = _opened(artefact, threads)
    except FormatError as error:
        return [Check(name="load", ok=False, detail=error.found)], None, None
    with engine:
        checks = [Check(name="load", ok=True, detail="loaded")]
        template = runner.check_template(values, expectations.rendered(engine))
        checks += [_check(template)] if template else []
        ids = values["ids"]
        logprobs = expectations.log_softmax(np.asarray(engine.logits(ids)))
        answers: list[tuple[int, float | None]] = [
            (int(logprobs[at["at"] - 1].argmax()), float(logprobs[at["at"] - 1, at["token"]]))
            for at in values["positions"]
        ]
        checks += map(_check, runner.check_answers(values, answers))
        for _ in engine.generate(ids, max_tokens=_NEW_TOKENS, ignore_eog=True):
            pass
        speed, memory = engine.last.tps or None, sum(engine.memory().values())
    checks += map(_check, runner.check_limits(speed, memory, *limits))
    return checks, speed, memory


def _check(values: dict[str, Any]) -> Check:
    return Check(name=values["name"], ok=values["ok"], detail=values["detail"])

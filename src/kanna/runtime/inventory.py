"""Which builds of llama.cpp are here, and what each of them sees."""

from __future__ import annotations

import builtins
from dataclasses import asdict, dataclass, replace
from typing import Any

from kanna._util.results import Result, ResultTable
from kanna._util.units import format_size
from kanna.errors import KannaError
from kanna.libllama import NATIVE, PREBUILT, builds, installed
from kanna.offload import listing


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeEntry:
    """One build of llama.cpp.

    Attributes:
        name: What `KANNA_LLAMACPP` and `kanna runtime use` take.
        kind: `package` or `installed`.
        backend: What it was built for.
        version: As it says itself; "" where it does not load.
        in_use: Whether it is what kanna runs now.
        path: Where it lies.
        num_bytes: What `kanna runtime rm` frees; 0 for a package.
        devices: What it sees here: `name`, `description`, `backend`, `kind`, `memory`, `free`.
        remark: Why it is not usable, or sees no device of its backend.
    """

    name: str
    kind: str
    backend: str
    version: str
    in_use: bool
    path: str
    num_bytes: int
    devices: builtins.list[dict[str, Any]]
    remark: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RuntimeList(Result):
    """Every build of llama.cpp here.

    Attributes:
        runtimes: Packages, then installed ones, the newest first.
        choice: What was chosen, `auto` where nothing was.
    """

    runtimes: builtins.list[RuntimeEntry]
    choice: str

    def headline(self) -> str:
        """How many there are and which is used."""
        used = [one.name for one in self.runtimes if one.in_use]
        return f"{len(self.runtimes)} builds of llama.cpp, {', '.join(used) or 'none'} in use"

    def tables(self) -> builtins.list[ResultTable]:
        """A row per build."""
        rows = [
            (one.name, one.version, ", ".join(map(describe, one.devices)) or one.remark)
            for one in self.runtimes
        ]
        return [ResultTable(columns=("runtime", "version", "devices"), rows=rows)]

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return asdict(self)


def list() -> RuntimeList:
    """Show every build of llama.cpp here and what each sees, each asked in a process of its own."""
    try:
        choice = builds.wanted()
    except KannaError:  # of a build that is gone: the list is where one looks for another
        choice = ""
    entries = [_package(build) for build in (NATIVE, PREBUILT) if build.folder is not None]
    entries += installed_builds()
    used = _used(entries, choice)
    return RuntimeList(
        runtimes=[replace(entry, in_use=entry is used) for entry in entries],
        choice=choice or installed.in_use(),
    )


def installed_builds() -> builtins.list[RuntimeEntry]:
    """The builds in the cache, each with what it sees."""
    return [_entry(name) for name in installed.names()]


def describe(device: dict[str, Any]) -> str:
    """A device as people read it: `CUDA0 NVIDIA H200, 140 GB`.

    Args:
        device: As `Device.to_dict` has it.
    """
    size = f", {format_size(device['memory'])}" if device["memory"] else ""
    return f"{device['name']} {device['description']}{size}".replace("CPU CPU", "CPU")


def _package(build: builds.Build) -> RuntimeEntry:
    seen = listing.look(choice=build.name)
    return RuntimeEntry(
        name=build.name,
        kind="package",
        backend="cpu",
        version=seen.version,
        in_use=False,
        path=str(build.folder),
        num_bytes=0,
        devices=seen.devices,
        remark=seen.why,
    )


def _entry(name: str) -> RuntimeEntry:
    folder = installed.home() / name
    size = sum(p.stat().st_size for p in folder.iterdir() if p.is_file())
    seen = listing.look(choice=name)
    return RuntimeEntry(
        name=name,
        kind="installed",
        backend=name.partition("-")[2].partition("-")[0],
        version=seen.version,
        in_use=False,
        path=str(folder),
        num_bytes=size,
        devices=seen.devices,
        remark=seen.why,
    )


def _used(entries: builtins.list[RuntimeEntry], choice: str) -> RuntimeEntry | None:
    """What kanna runs: the one that was chosen, or the first package, else the newest build."""
    if choice == "auto":
        packages = [one for one in entries if one.kind == "package"]
        return next((one for one in packages or entries if one.version), None)
    return next((one for one in entries if one.name == choice), None)

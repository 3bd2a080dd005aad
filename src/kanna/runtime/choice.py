"""Which build kanna runs from now on, and builds that go."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

from kanna._util import locks, own_files
from kanna._util.nearest import nearest
from kanna._util.results import Result
from kanna._util.units import format_size
from kanna.errors import MissingError, UsageError
from kanna.libllama import NATIVE, PREBUILT, builds, installed
from kanna.offload import listing


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class UseResult(Result):
    """What was chosen.

    Attributes:
        name: The build, or `auto`, `prebuilt`, `native`.
        overridden: The value of KANNA_LLAMACPP, which goes before it; "" where it is not set.
        devices: What an installed one sees.
    """

    name: str
    overridden: str
    devices: list[dict[str, Any]]

    def headline(self) -> str:
        """What is used now."""
        return f"{self.name} is used from now on"

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RemovedRuntime(Result):
    """What was removed, or would be.

    Attributes:
        name: The build.
        num_bytes: What that frees.
        was_in_use: Whether it was the one that was chosen: `auto` is then.
        dry_run: Whether it was only looked at.
    """

    name: str
    num_bytes: int
    was_in_use: bool
    dry_run: bool

    def headline(self) -> str:
        """How much is freed."""
        return f"{self.name}: {format_size(self.num_bytes)}"

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return asdict(self)


def use(name: str) -> UseResult:
    """Have `generate`, `evaluate`, `verify` and `bench` run this build of llama.cpp.

    `KANNA_LLAMACPP` goes before it.

    Args:
        name: Of an installed build, a backend (its newest build), or `auto`, `prebuilt`, `native`.

    Raises:
        UsageError: There is none of that name.
        MissingError: It is not here, does not load, was changed, or sees no device of its backend.
    """
    devices: list[dict[str, Any]] = []
    if name in builds.CHOICES:
        chosen = name
        for build in (NATIVE, PREBUILT):
            if build.name == name:
                build.library()
    else:
        if installed.find(name) is None:
            known = [*builds.CHOICES, *installed.names()]
            raise UsageError(
                f"no runtime {name!r} is here{nearest(name, known)}",
                expected=" or ".join(known),
                todo="kanna runtime list; kanna runtime install llamacpp --backend NAME",
            )
        build = installed.get(name)
        chosen = build.name
        installed.check(build, build.folder)
        seen = listing.look(choice=chosen)
        if seen.why:
            raise MissingError(
                f"the runtime {chosen} is not usable here: {seen.why}",
                todo="kanna runtime list shows what the others see",
            )
        devices = seen.devices
    installed.put_in_use("" if chosen == "auto" else chosen)
    return UseResult(
        name=chosen, overridden=os.environ.get(builds.VARIABLE, "").strip(), devices=devices
    )


def rm(name: str, *, dry_run: bool = False) -> RemovedRuntime:
    """Remove a build that was installed, damaged or not.

    Args:
        name: Of the build.
        dry_run: Only say what would go.

    Raises:
        UsageError: None of that name is installed.
    """
    here = installed.names()
    if name not in here:
        raise UsageError(
            f"no runtime {name!r} is installed{nearest(name, here)}",
            expected=", ".join(here) or "one that `kanna runtime install` made",
            todo="packages are removed by pip",
        )
    folder = installed.home() / name
    size = sum(p.stat().st_size for p in folder.iterdir() if p.is_file())
    chosen = installed.in_use() == name
    if not dry_run:
        with locks.holding(folder, "remove a runtime"):
            own_files.remove(folder)
        if chosen:
            installed.put_in_use("")
    return RemovedRuntime(name=name, num_bytes=size, was_in_use=chosen, dry_run=dry_run)

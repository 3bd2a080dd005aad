"""What a build of llama.cpp sees here, asked in a process of its own: its driver may end it.

Two builds in one process would also share ggml's libraries, which have the same names.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kanna import libllama
from kanna._util.processes import answer, ask
from kanna.errors import KannaError
from kanna.libllama import builds, devices, installed
from kanna.runtimes.llamacpp import LOG, heard


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildState:
    """A build that was loaded, and its devices.

    Attributes:
        ok: Whether it loads and is what was installed.
        version: llama.cpp's own, with the package's.
        devices: As `Device.to_dict` has them.
        why: Why it does not load, or has no device of its backend; "" otherwise.
    """

    ok: bool
    version: str = ""
    devices: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON has it."""
        return asdict(self)


def look(*, choice: str = "", folder: Path | None = None) -> BuildState:
    """Load a build in a child and list its devices. Never raises.

    Args:
        choice: `prebuilt`, `native` or the name of an installed one.
        folder: Where one lies that is not installed yet, in place of that.
    """
    task = {"folder": str(folder or "")}
    variables = {builds.VARIABLE: choice} if choice else {builds.VARIABLE: "prebuilt"}
    try:
        seen = ask(
            "kanna.offload.listing",
            task,
            f"looking at the runtime {choice or folder}",
            variables=variables,
        )
    except KannaError as error:
        return BuildState(ok=False, why=error.found)
    return BuildState(ok=True, version=seen["version"], devices=seen["devices"], why=seen["why"])


def _look(folder: str) -> dict[str, Any]:
    """What the child runs."""
    if folder:
        build = builds.of_installed(installed.read(Path(folder)), Path(folder))
        library = libllama.load(build)
    else:
        library = libllama.library()
    LOG.attach(library.functions)
    library.functions.llama_backend_init()
    devices.load_backends(library)
    backend = library.build.backend
    why = ""
    if backend != "cpu" and not devices.of_backend(library, backend):
        why = f"{backend} has no device here: {devices.why_none(library, heard())}"
    seen = [one.to_dict() for one in devices.devices(library)]
    return {"version": library.version, "devices": seen, "why": why}


if __name__ == "__main__":
    sys.exit(answer(_look))

"""Which llama.cpp computes on a backend: an installed one, or a package that was built for it."""

from __future__ import annotations

from collections.abc import Mapping

from kanna._util.nearest import nearest
from kanna.errors import MissingError, UsageError
from kanna.libllama import NATIVE, PREBUILT, builds, installed
from kanna.libllama.devices import REGISTERED
from kanna.offload import listing

BACKENDS = tuple(REGISTERED)
"""What llama.cpp computes on, as kanna names it."""
GPU_BACKENDS = tuple(name for name in BACKENDS if name != "cpu")


def check(backend: str) -> None:
    """Raise UsageError for a backend that kanna does not know.

    Args:
        backend: As the user named it.
    """
    if backend not in BACKENDS:
        raise UsageError(
            f"no backend {backend!r}{nearest(backend, BACKENDS)}", expected=", ".join(BACKENDS)
        )


def select(backend: str) -> str:
    """The name of the build that computes on a backend, for `KANNA_LLAMACPP`.

    The one in use if it is of that backend, else the newest installed one, else a package.

    Args:
        backend: One of BACKENDS.

    Raises:
        UsageError: There is no such backend.
        MissingError: No build of it is here.
    """
    check(backend)
    choice = builds.wanted()
    if choice not in builds.CHOICES and installed.get(choice).backend == backend:
        return choice
    if (build := installed.find(backend)) is not None:
        return build.name
    packages = [build for build in (NATIVE, PREBUILT) if build.folder is not None]
    if backend == "cpu" and packages:
        return choice if choice in builds.CHOICES else "auto"
    for build in packages:
        seen = listing.look(choice=build.name)
        if any(d["backend"].lower() == REGISTERED[backend].lower() for d in seen.devices):
            return build.name
    raise MissingError(
        f"no llama.cpp for {backend} is installed here",
        expected=f"a runtime built for {backend}",
        todo=f"kanna runtime install llamacpp --backend {backend}",
    )


def variables(backend: str | None) -> Mapping[str, str]:
    """Variables with which a child of ours uses the build of a backend.

    Args:
        backend: One of BACKENDS; None: what is in use.
    """
    return {} if backend is None else {builds.VARIABLE: select(backend)}

"""Builds of llama.cpp that `kanna runtime install` put into the cache, side by side.

A build is a folder with its libraries and a manifest, which has the hash of each: what is loaded
is what was installed, or it is not loaded.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kanna._util import folders, verified
from kanna._util.atomic import write_text
from kanna._util.nearest import nearest
from kanna.errors import MissingError, UsageError

MANIFEST = "runtime.json"
_IN_USE = "in-use.json"
_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledBuild:
    """A build in the cache.

    Attributes:
        name: `0.3.36-vulkan`: the version of its source and the backend.
        version: Of the package its source came with, or of llama.cpp itself.
        backend: What it computes on: `cpu`, `cuda`, `vulkan`, …
        native: Whether its code for the CPU was compiled for this one.
        source_sha256: Of the archive it was built from; "" for a folder.
        options: What cmake was given.
        files: SHA-256 of every library by its name.
    """

    name: str
    version: str
    backend: str
    native: bool
    source_sha256: str
    options: tuple[str, ...]
    files: dict[str, str] = field(hash=False)

    @property
    def folder(self) -> Path:
        """Where its libraries lie."""
        return home() / self.name

    def to_dict(self) -> dict[str, Any]:
        """The manifest."""
        return {"format": _FORMAT, **asdict(self)}


def home() -> Path:
    """The folder of all builds of llama.cpp."""
    return folders.cache_folder() / "runtimes" / "llamacpp"


def read(folder: Path) -> InstalledBuild:
    """The manifest of a build; MissingError where it is damaged.

    Args:
        folder: Of the build; its name is the folder's where it is complete.
    """
    path = folder / MANIFEST
    try:
        about: Any = json.loads(path.read_text(encoding="utf-8"))
        if about["format"] != _FORMAT:
            raise ValueError(f"format {about['format']}")
        files = {str(name): str(digest) for name, digest in about["files"].items()}
        if any(Path(name).name != name for name in files):
            raise ValueError("a file elsewhere")
        return InstalledBuild(
            name=str(about["name"]),
            version=str(about["version"]),
            backend=str(about["backend"]),
            native=bool(about["native"]),
            source_sha256=str(about["source_sha256"]),
            options=tuple(map(str, about["options"])),
            files=files,
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise MissingError(
            f"{path} is not the manifest of a runtime: {type(error).__name__}: {error}",
            todo=f"kanna runtime rm {folder.name}, then install it again",
        ) from error


def names() -> list[str]:
    """Names of the builds that are here, the newest version first, damaged ones included."""
    if not home().is_dir():
        return []
    here = [p.name for p in home().iterdir() if (p / MANIFEST).is_file()]
    return sorted((n for n in here if not n.endswith(".partial")), key=_order, reverse=True)


def _order(name: str) -> tuple[list[int], str]:
    version, _, rest = name.partition("-")
    return [int(part) if part.isdigit() else 0 for part in version.split(".")], rest


def find(name: str) -> InstalledBuild | None:
    """The build of that name, or the newest of that backend; None where there is none.

    Args:
        name: `0.3.36-vulkan` or `vulkan`.
    """
    here = names()
    if name in here:
        return read(home() / name)
    of_backend = [one for one in here if one.partition("-")[2].partition("-")[0] == name]
    return read(home() / of_backend[0]) if of_backend else None


def get(name: str) -> InstalledBuild:
    """The same; UsageError, with what is here, where there is none."""
    build = find(name)
    if build is None:
        here = names()
        raise UsageError(
            f"no runtime {name!r} is installed{nearest(name, here)}",
            expected=", ".join(here) or "one that `kanna runtime install llamacpp` made",
            todo="kanna runtime list",
        )
    return build


def check(build: InstalledBuild, folder: Path) -> None:
    """Raise MissingError where a library is not what was installed.

    Args:
        build: What its manifest says.
        folder: Where its libraries lie.
    """
    todo = f"kanna runtime rm {build.name}, then install it again"
    for name, digest in build.files.items():
        path = folder / name
        if not path.is_file() or path.is_symlink():
            raise MissingError(f"the runtime {build.name} lacks its file {name}", todo=todo)
        if not verified.holds(path, digest):
            raise MissingError(
                f"{path} is not what was installed: it was changed since",
                expected=f"SHA-256 {digest}",
                todo=todo,
            )


def in_use() -> str:
    """What `kanna runtime use` chose; "" where nothing was chosen."""
    try:
        about: Any = json.loads((home() / _IN_USE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    name = about.get("name") if isinstance(about, dict) else None
    return name if isinstance(name, str) else ""


def put_in_use(name: str) -> None:
    """Remember a choice; "" forgets it.

    Args:
        name: Of a build.
    """
    home().mkdir(parents=True, exist_ok=True)
    if name:
        write_text(home() / _IN_USE, json.dumps({"name": name}) + "\n")
    else:
        (home() / _IN_USE).unlink(missing_ok=True)

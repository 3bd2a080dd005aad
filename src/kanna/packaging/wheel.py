"""The wheel of kanna that a package brings along: no package index is asked for kanna.

An index may not have this version, and whoever registers a free name there would run in its place.
"""

from __future__ import annotations

import email
import json
import os
import platform
import re
import zipfile
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from importlib import metadata
from pathlib import Path

import kanna
from kanna._util import distribution, own_files
from kanna.errors import MissingError, UsageError
from kanna.packaging import source_wheel, wheel_archive

FOLDER = "wheels"
VARIABLE = "KANNA_WHEEL"
_NOT_SHIPPED = ("INSTALLER", "REQUESTED", "direct_url.json", "RECORD")

_MOST_ABOUT = 1 << 20  # bytes of METADATA; ours has some thousands


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """A wheel in a package.

    Attributes:
        path: Where it lies now.
        digest: Its SHA-256.
    """

    path: Path
    digest: str

    @property
    def place(self) -> str:
        """Its path in the package."""
        return f"{FOLDER}/{self.path.name}"

    @property
    def python(self) -> str | None:
        """The one version of Python that it is for, such as `3.11`; None for any."""
        _, python, abi, _ = self.path.stem.rsplit("-", 3)
        only = re.fullmatch(r"cp3(\d+)", abi)
        return f"3.{only[1]}" if only and abi == python else None


@contextmanager
def wheel_to_ship(given: str | Path | None) -> Generator[Wheel]:
    """The wheel that is named; else the one this kanna was installed from, or is packed again.

    Args:
        given: A wheel, or None.

    Raises:
        UsageError: What was named is no wheel of kanna.
        MissingError: kanna runs from its source code, and no wheel of it is there.
    """
    given = given or os.environ.get(VARIABLE) or None
    if given is not None:
        yield _opened(_check(Path(given)))
        return
    with own_files.scratch() as folder:
        path = _installed(folder) or _built(folder)
        if path is None:
            raise MissingError(
                "kanna runs from its source code, and a package needs a compiled wheel of it",
                expected=f"a wheel of kanna {kanna.__version__}: no package index is relied on",
                todo="run `make wheels`, then package again; or name a wheel with --wheel",
            )
        yield _opened(path)


def _opened(path: Path) -> Wheel:
    return Wheel(path=path, digest=_digest(path))


def _check(path: Path) -> Path:
    if not path.is_file() or path.suffix != ".whl" or not _is_ours(path):
        raise UsageError(
            f"{path} is not a wheel of kanna",
            expected=f"a file {distribution.WHEEL_PREFIX}….whl (make wheels)",
        )
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            about = next((n for n in names if n.endswith(".dist-info/METADATA")), None)
            text = _start_of(archive, about) if about else ""
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, OSError) as error:
        raise UsageError(f"{path} is not a wheel of kanna: {error}") from error
    if about is None:
        raise UsageError(f"{path} is not a wheel of kanna: it has no METADATA")
    named = email.message_from_string(text)
    if named["Name"] != distribution.NAME:
        raise UsageError(
            f"{path} is a wheel of {named['Name']!r}", expected=f"one of {distribution.NAME}"
        )
    if named["Version"] != kanna.__version__:
        raise UsageError(
            f"{path} is kanna {named['Version']}",
            expected=f"{kanna.__version__}, which writes this package and whose needs are pinned",
        )
    return path


def _start_of(archive: zipfile.ZipFile, name: str) -> str:
    # What it says of its size may be wrong, and a kilobyte may unpack to gigabytes.
    with archive.open(name) as file:
        return file.read(_MOST_ABOUT).decode("utf-8", "replace")


def _is_ours(path: Path) -> bool:
    # The name goes into commands and a Dockerfile: it has what names of wheels have, nothing else.
    rest = path.name.removeprefix(distribution.WHEEL_PREFIX)
    return rest != path.name and re.fullmatch(r"[A-Za-z0-9._+!-]+", rest) is not None


def _built(folder: Path) -> Path | None:
    """The newest wheel of this version for this machine beside the source code, else a new one."""
    made = Path(kanna.__file__).parents[2] / "dist"
    fitting = f"{distribution.WHEEL_PREFIX}{kanna.__version__}-*linux_{platform.machine()}.whl"
    wheels = [*made.glob(fitting), *made.glob(fitting.replace("linux", "manylinux_*"))]
    newest = max(wheels, key=lambda p: p.stat().st_mtime, default=None)
    return newest or source_wheel.pack(folder)


def _installed(folder: Path) -> Path | None:
    """The wheel that was installed: where it came from, else its files packed again."""
    installed = distribution.installed()
    # None for another kanna, or one that is edited in place.
    return None if installed is None else _origin(installed) or _pack(installed, folder)


def _origin(installed: metadata.Distribution) -> Path | None:
    """The file that was installed, when it is still there and the same."""
    path, wanted = distribution.local_path(distribution.origin(installed)), _noted(installed)
    try:
        same = path is not None and _is_ours(path) and _digest(path) == wanted
    except OSError:
        return None
    return path if same else None


def _noted(installed: metadata.Distribution) -> str:
    """SHA-256 of the archive that was installed, as pip noted it."""
    try:
        note = json.loads(installed.read_text("direct_url.json") or "{}")
        return str(note["archive_info"]["hashes"]["sha256"])
    except (ValueError, KeyError, TypeError):
        return ""


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def _pack(installed: metadata.Distribution, folder: Path) -> Path | None:
    """The installed files as the wheel that they came in."""
    about = installed.read_text("WHEEL") or ""
    tags = [line.split(": ", 1)[1] for line in about.splitlines() if line.startswith("Tag: ")]
    files = [f for f in installed.files or () if not str(f).startswith("..")]
    kept = [f for f in files if f.name not in _NOT_SHIPPED and f.suffix != ".pyc"]
    info = next((f.parts[0] for f in files if f.name == "METADATA"), None)
    if not tags or info is None:
        return None
    name = f"{distribution.WHEEL_PREFIX}{installed.version}-{tags[0]}.whl"
    contents = {f.as_posix(): Path(str(installed.locate_file(f))).read_bytes() for f in kept}
    return wheel_archive.write(folder / name, contents, info)

"""The wheel of kanna that a package brings along: no package index is asked for kanna.

An index may not have this version, and whoever registers a free name there would run in its place.
"""

from __future__ import annotations

import base64
import json
import os
import platform
import tempfile
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import kanna
from kanna.errors import MissingError, UsageError

FOLDER = "wheels"
VARIABLE = "KANNA_WHEEL"
_NOT_SHIPPED = ("INSTALLER", "REQUESTED", "direct_url.json", "RECORD")
_EARLIEST = (1980, 1, 1, 0, 0, 0)


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
    with tempfile.TemporaryDirectory() as folder:
        path = _installed(Path(folder)) or _built()
        if path is None:
            raise MissingError(
                "kanna runs from its source code, and a package needs a wheel of it",
                expected=f"a wheel of kanna {kanna.__version__}: no package index is relied on",
                todo="run `make wheels`, then package again; or name a wheel with --wheel",
            )
        yield _opened(path)


def _opened(path: Path) -> Wheel:
    return Wheel(path=path, digest=sha256(path.read_bytes()).hexdigest())


def _check(path: Path) -> Path:
    if not path.is_file() or path.suffix != ".whl" or not path.name.startswith("kanna-"):
        raise UsageError(
            f"{path} is not a wheel of kanna", expected="a file kanna-….whl (make wheels)"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise UsageError(f"{path} is not a wheel of kanna: {error}") from error
    if not any(name.endswith(".dist-info/METADATA") for name in names):
        raise UsageError(f"{path} is not a wheel of kanna: it has no METADATA")
    return path


def _built() -> Path | None:
    """The newest wheel of this version for this machine beside the source code."""
    folder = Path(kanna.__file__).parents[2] / "dist"
    fitting = f"kanna-{kanna.__version__}-*linux_{platform.machine()}.whl"
    wheels = [*folder.glob(fitting), *folder.glob(fitting.replace("linux", "manylinux_*"))]
    return max(wheels, key=lambda p: p.stat().st_mtime, default=None)


def _installed(folder: Path) -> Path | None:
    """The wheel that was installed: where it came from, else its files packed again."""
    try:
        installed = metadata.distribution("kanna")
    except metadata.PackageNotFoundError:
        return None
    here = Path(str(installed.locate_file("kanna"))).resolve()
    if here != Path(kanna.__file__).resolve().parent:
        return None  # another kanna, or one that is edited in place
    return _origin(installed) or _pack(installed, folder)


def _origin(installed: metadata.Distribution) -> Path | None:
    """The file that was installed, when it is still there and the same."""
    try:
        note = json.loads(installed.read_text("direct_url.json") or "{}")
        path = Path(url2pathname(urlsplit(note["url"]).path))
        wanted = note["archive_info"]["hashes"]["sha256"]
        same = path.suffix == ".whl" and sha256(path.read_bytes()).hexdigest() == wanted
    except (ValueError, KeyError, TypeError, OSError):
        return None
    return path if same else None


def _pack(installed: metadata.Distribution, folder: Path) -> Path | None:
    """The installed files as the wheel that they came in."""
    about = installed.read_text("WHEEL") or ""
    tags = [line.split(": ", 1)[1] for line in about.splitlines() if line.startswith("Tag: ")]
    files = [f for f in installed.files or () if not str(f).startswith("..")]
    kept = [f for f in files if f.name not in _NOT_SHIPPED and f.suffix != ".pyc"]
    info = next((f.parts[0] for f in files if f.name == "METADATA"), None)
    if not tags or info is None:
        return None
    path = folder / f"kanna-{installed.version}-{tags[0]}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        lines: list[str] = []
        for file in sorted(kept, key=str):
            data = Path(str(installed.locate_file(file))).read_bytes()
            digest = base64.urlsafe_b64encode(sha256(data).digest()).rstrip(b"=").decode()
            lines.append(f'"{file.as_posix()}",sha256={digest},{len(data)}')
            archive.writestr(_entry(file.as_posix()), data)
        lines.append(f'"{info}/RECORD",,')
        archive.writestr(_entry(f"{info}/RECORD"), "\n".join(lines) + "\n")
    return path


def _entry(name: str) -> zipfile.ZipInfo:
    """A member without a date, so that the same files give the same wheel."""
    entry = zipfile.ZipInfo(name, _EARLIEST)
    entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o100644 << 16
    return entry

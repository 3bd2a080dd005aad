"""The source of llama.cpp: from the source package of llama-cpp-python, which carries it whole."""

from __future__ import annotations

import gzip
import re
import shutil
import tarfile
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from kanna._util import disk, own_files
from kanna._util.digest import sha256
from kanna._util.nearest import absent
from kanna._util.progress import Progress
from kanna.errors import FormatError, NotFoundError
from kanna.sources import packages, pinned

PACKAGE, VERSION = "llama-cpp-python", "0.3.36"
_PINNED = f"{PACKAGE}=={VERSION}"
_ARCHIVE_BYTES = 76_600_000
_NEEDED = ("CMakeLists.txt", "LICENSE", "cmake", "ggml", "include", "src", "vendor")
"""Of llama.cpp: what its libraries are built from."""
_VENDORED = "vendor/llama.cpp/"
"""Where the package has it, below a CMakeLists.txt of the package's own."""
_NAMED = re.compile(r"llama[_-]cpp[_-]python-(\d+(?:\.\d+)+)")
_OWN = re.compile(r"set\(LLAMA_VERSION_(MAJOR|MINOR|PATCH) (\d+)\)")
_MOST_BYTES = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceArchive:
    """Where llama.cpp's source is.

    Attributes:
        path: An archive, or a folder with its CMakeLists.txt.
        version: Of the package it came with, or llama.cpp's own.
        sha256: Of the archive; "" for a folder.
    """

    path: Path
    version: str
    sha256: str


@contextmanager
def located(given: str | Path | None, progress: Progress) -> Generator[SourceArchive]:
    """The source that was named, or the one that kanna knows, fetched for the length of the block.

    Args:
        given: An archive or a folder; None: from the package index.
        progress: Where progress is reported.

    Raises:
        UsageError: There is no such file.
        MissingError: It cannot be fetched.
        FormatError: It holds no llama.cpp.
    """
    if given is not None:
        yield _given(Path(given).expanduser())
        return
    with packages.source_package(_PINNED, _ARCHIVE_BYTES, progress) as path:
        yield SourceArchive(path=path, version=VERSION, sha256=sha256(path))


def _given(path: Path) -> SourceArchive:
    if not path.exists():
        raise NotFoundError(absent(path), expected=f"the source package of {PACKAGE}, or a folder")
    if path.is_dir():
        inner = path / "vendor" / "llama.cpp"
        root = inner if inner.is_dir() else path
        if not (root / "ggml").is_dir() or not (root / "CMakeLists.txt").is_file():
            raise FormatError(f"{path} has no llama.cpp", expected="CMakeLists.txt, ggml, src")
        named = _NAMED.search(path.name)
        return SourceArchive(path=root, version=named[1] if named else version_of(root), sha256="")
    named = _NAMED.search(path.name)
    archive = SourceArchive(path=path, version=named[1] if named else "", sha256=sha256(path))
    known = pinned.WHEELS[_PINNED]
    if archive.version == VERSION and archive.sha256 not in known:
        raise FormatError(
            f"{path} is not {PACKAGE} {VERSION} as the package index has it: its SHA-256 is "
            f"{archive.sha256}",
            expected=" or ".join(known),
            todo="fetch it again; of a source of your own, give the unpacked folder",
        )
    return archive


def unpack(archive: SourceArchive, folder: Path, progress: Progress) -> str:
    """Put what is built into a folder; returns the version.

    Args:
        archive: The source.
        folder: Made anew.
        progress: Where progress is reported.

    Raises:
        FormatError: It is damaged, or holds no llama.cpp.
    """
    own_files.remove(folder)
    progress.start("unpack llama.cpp", None, "files")
    try:
        with own_files.complete(folder) as made:
            made.mkdir(parents=True)
            if archive.path.is_dir():
                _copy(archive.path, made)
            else:
                _extract(archive.path, made, progress)
            if not (made / "CMakeLists.txt").is_file() or not (made / "ggml").is_dir():
                raise FormatError(
                    f"{archive.path} has no llama.cpp in it",
                    expected=f"the source package of {PACKAGE} {VERSION}, or llama.cpp's own",
                )
            version = archive.version or version_of(made)
    finally:
        progress.finish()
    return version


def _copy(source: Path, made: Path) -> None:
    for name in _NEEDED:
        if (source / name).is_dir():
            shutil.copytree(source / name, made / name)
        elif (source / name).is_file():
            shutil.copy2(source / name, made / name)


def _extract(path: Path, made: Path, progress: Progress) -> None:
    """Files of llama.cpp, under their names below its own folder; links and devices are left."""
    total = 0
    try:
        with tarfile.open(path) as archive:
            files = [member for member in archive if member.isfile()]
            while archive.fileobj.read(1 << 20):  # to the checksum at its end
                pass
            root = _root([member.name for member in files])
            for member in files:
                below = PurePosixPath(member.name[len(root) :])
                inside = member.name.startswith(root)
                if not inside or not below.parts or below.parts[0] not in _NEEDED:
                    continue
                if ".." in below.parts or below.is_absolute():
                    raise FormatError(f"{path} has a file {member.name} that leaves its folder")
                total += member.size
                if total > _MOST_BYTES:
                    raise FormatError(f"{path} unpacks to more than {_MOST_BYTES >> 20} MiB")
                data = archive.extractfile(member)
                assert data is not None
                _write(data, made / below)
                progress.advance(1)
    except (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise FormatError(
            f"{path} is not a whole archive: {error}",
            expected=f"the source package of {PACKAGE} {VERSION}, a .tar.gz",
            todo="fetch it again, or leave --source out",
        ) from error


def _write(data: IO[bytes], target: Path) -> None:
    """Write a file anew; OutputError where the disk does not take it."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as out:
            shutil.copyfileobj(data, out, 1 << 20)
    except gzip.BadGzipFile:  # an OSError of what is read
        raise
    except OSError as error:
        raise disk.explain(error, target) from error


def _root(names: list[str]) -> str:
    """What the names of llama.cpp's files begin with in an archive.

    The package has a CMakeLists.txt of its own above it, and git's records of the folder's name.
    """
    roots = [n.removesuffix("CMakeLists.txt") for n in names if n.endswith("/CMakeLists.txt")]
    vendored = [root for root in roots if root.endswith(f"/{_VENDORED}")]
    return min(vendored or roots, key=len, default="")


def version_of(root: Path) -> str:
    """llama.cpp's own version, as its CMakeLists.txt has it.

    Args:
        root: Its folder.
    """
    text = (root / "CMakeLists.txt").read_text(encoding="utf-8", errors="replace")
    parts = dict(_OWN.findall(text))
    return ".".join(parts.get(part, "0") for part in ("MAJOR", "MINOR", "PATCH"))

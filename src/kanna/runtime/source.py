"""The source of llama.cpp: from the source package of llama-cpp-python, which carries it whole."""

from __future__ import annotations

import re
import shutil
import tarfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kanna._util import own_files
from kanna._util.digest import sha256
from kanna._util.nearest import absent
from kanna._util.progress import Progress
from kanna.errors import FormatError, NotFoundError
from kanna.sources import packages

PACKAGE, VERSION = "llama-cpp-python", "0.3.36"
_ARCHIVE_BYTES = 76_600_000
_NEEDED = ("CMakeLists.txt", "LICENSE", "cmake", "ggml", "include", "src", "vendor")
"""Of llama.cpp: what its libraries are built from."""
_INSIDE = re.compile(r"(?:^|/)vendor/llama\.cpp/|^[^/]+/(?=CMakeLists\.txt|ggml/|src/|include/)")
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
    with packages.source_package(f"{PACKAGE}=={VERSION}", _ARCHIVE_BYTES, progress) as path:
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
    return SourceArchive(path=path, version=named[1] if named else "", sha256=sha256(path))


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
            for member in archive:
                inside = _INSIDE.search(member.name)
                below = PurePosixPath(member.name[inside.end() :]) if inside else PurePosixPath()
                if not member.isfile() or not below.parts or below.parts[0] not in _NEEDED:
                    continue
                if ".." in below.parts or below.is_absolute():
                    raise FormatError(f"{path} has a file {member.name} that leaves its folder")
                total += member.size
                if total > _MOST_BYTES:
                    raise FormatError(f"{path} unpacks to more than {_MOST_BYTES >> 20} MiB")
                target = made / below
                target.parent.mkdir(parents=True, exist_ok=True)
                data = archive.extractfile(member)
                assert data is not None
                with target.open("xb") as out:
                    shutil.copyfileobj(data, out, 1 << 20)
                progress.advance(1)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise FormatError(
            f"{path} is not a whole archive: {error}", expected="a .tar.gz"
        ) from error


def version_of(root: Path) -> str:
    """llama.cpp's own version, as its CMakeLists.txt has it.

    Args:
        root: Its folder.
    """
    text = (root / "CMakeLists.txt").read_text(encoding="utf-8", errors="replace")
    parts = dict(_OWN.findall(text))
    return ".".join(parts.get(part, "0") for part in ("MAJOR", "MINOR", "PATCH"))

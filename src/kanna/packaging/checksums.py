"""SHA256SUMS: the hash of every file of a package, in the form `sha256sum --check` reads."""

from __future__ import annotations

import re
from pathlib import Path

from kanna._util.digest import sha256
from kanna._util.progress import Progress, Silent
from kanna.errors import FormatError
from kanna.formats.text_files import read_text

FILE = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")


def checksums(hashes: dict[str, str]) -> str:
    """Returns the text of SHA256SUMS from hashes by path in the package."""
    return "".join(f"{hashes[path]}  {path}\n" for path in sorted(hashes))


def read(folder: Path) -> dict[str, str]:
    """Returns the hashes of a package's SHA256SUMS by path.

    Raises:
        FormatError: A line is no hash and path, or a path leads out of the package.
    """
    hashes: dict[str, str] = {}
    for number, line in enumerate(read_text(folder / FILE).splitlines(), 1):
        parts = _LINE.fullmatch(line)
        if parts is None:
            raise FormatError(
                f"line {number} of {FILE} is {line[:80]!r}",
                expected="a SHA-256, two spaces and a path",
            )
        path = parts[2]
        if path.startswith("/") or ".." in path.split("/") or path in hashes:
            raise FormatError(
                f"line {number} of {FILE} names {path!r}", expected="each file of the package, once"
            )
        hashes[path] = parts[1]
    return hashes


def differences(folder: Path, unlisted: set[str], progress: Progress | None = None) -> list[str]:
    """Returns what differs from SHA256SUMS, a sentence each; links count as changes.

    Args:
        folder: The package.
        unlisted: Paths that need not be listed.
        progress: Where hashing reports how far it is.
    """
    listed = read(folder)
    problems: list[str] = []
    progress = progress or Silent()
    sizes = [(folder / p).stat().st_size for p in listed if (folder / p).is_file()]
    progress.start("hash the package", sum(sizes))
    for path, digest in listed.items():
        file = folder / path
        if not file.is_file() or file.is_symlink():
            problems.append(f"{path} is missing")
        elif sha256(file, lambda n, p=path: progress.advance(n, p)) != digest:
            problems.append(f"{path} was changed")
    progress.finish()
    present = {
        p.relative_to(folder).as_posix()
        for p in folder.rglob("*")
        if p.is_symlink() or not p.is_dir()
    }
    problems += [f"{path} was added" for path in sorted(present - set(listed) - unlisted)]
    return problems

"""SHA256SUMS: the hash of every file of a package, in the form `sha256sum --check` reads."""

from __future__ import annotations

import re
from pathlib import Path

from kanna._util.digest import sha256
from kanna._util.progress import Progress, Silent
from kanna.errors import FormatError

FILE = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")


def checksums(hashes: dict[str, str]) -> str:
    """The text of SHA256SUMS; hashes by path in the package."""
    return "".join(f"{hashes[path]}  {path}\n" for path in sorted(hashes))


def read(folder: Path) -> dict[str, str]:
    """Hashes by path. Raises FormatError for a line that is none, or a path that leaves the package."""
    found: dict[str, str] = {}
    for number, line in enumerate((folder / FILE).read_text(encoding="utf-8").splitlines(), 1):
        parts = _LINE.fullmatch(line)
        if parts is None:
            raise FormatError(
                f"line {number} of {FILE} is {line[:80]!r}",
                expected="a SHA-256, two spaces and a path",
            )
        path = parts[2]
        if path.startswith("/") or ".." in path.split("/") or path in found:
            raise FormatError(
                f"line {number} of {FILE} names {path!r}", expected="each file of the package, once"
            )
        found[path] = parts[1]
    return found


def differences(folder: Path, besides: set[str], progress: Progress | None = None) -> list[str]:
    """What differs from SHA256SUMS, in words.

    Files `besides` need not be listed. Links count as changes.
    """
    wanted = read(folder)
    found: list[str] = []
    told = progress or Silent()
    sizes = [(folder / p).stat().st_size for p in wanted if (folder / p).is_file()]
    told.start("hash the package", sum(sizes))
    for path, digest in wanted.items():
        file = folder / path
        if not file.is_file() or file.is_symlink():
            found.append(f"{path} is missing")
        elif sha256(file, lambda n, p=path: told.advance(n, p)) != digest:
            found.append(f"{path} was changed")
    told.finish()
    there = {
        p.relative_to(folder).as_posix()
        for p in folder.rglob("*")
        if p.is_symlink() or not p.is_dir()
    }
    found += [f"{path} was added" for path in sorted(there - set(wanted) - besides)]
    return found

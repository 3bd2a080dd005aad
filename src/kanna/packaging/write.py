"""Write a package: everything under a temporary name, which is then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from kanna import signing
from kanna._util import own_files
from kanna._util.disk import explain, sync_file, sync_folder
from kanna.errors import OutputError
from kanna.packaging import checksums


def write(
    folder: Path,
    texts: dict[str, str],
    copied: dict[str, Path],
    hashes: Mapping[str, str],
    sign_key: str | Path | None,
) -> None:
    """Write everything into a folder of a fresh name, sync it and rename it.

    A run that was killed leaves at most that folder, which the next one removes.

    Args:
        folder: The package.
        texts: Text of each generated file, by its path in the package.
        copied: Files that are copied, by their path in the package.
        hashes: SHA-256 of the copied files that are hashed already, by the same path.
        sign_key: A private key to sign with, or None.

    Raises:
        OutputError: The folder cannot be written, or exists meanwhile.
    """
    partial = own_files.fresh_name(folder)
    parent = folder.absolute().parent
    if not parent.is_dir():
        raise OutputError(f"the folder {parent} does not exist", todo=f"make it: mkdir -p {parent}")
    own_files.sweep_for(folder)
    try:
        digests = dict(hashes)
        for place, text in texts.items():
            _write_bytes(partial / place, text.encode())
        written: dict[str, Path] = {}
        for place, source in copied.items():
            alike = written.setdefault(digests.get(place, place), partial / place)
            if alike == partial / place:
                _copy(source, alike)
            else:
                _link(alike, partial / place)
        for place in (*texts, *(p for p in copied if p not in digests)):
            digests[place] = checksums.sha256(partial / place)
        _write_bytes(partial / checksums.FILE, checksums.checksums(digests).encode())
        if sign_key is not None:
            signing.sign(partial, Path(sign_key))
        if folder.exists() or folder.is_symlink():  # made by another process meanwhile
            raise OutputError(f"{folder} exists", todo="choose another name, or remove it")
        partial.rename(folder)
        sync_folder(parent)
    except OSError as error:
        raise explain(error, folder) from error
    finally:
        own_files.remove(partial)


def _write_bytes(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _link(there: Path, path: Path) -> None:
    """A file that is in the package already: one on disk where the file system has links."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(there, path)
    except OSError:
        _copy(there, path)


def _copy(source: Path, path: Path) -> None:
    """Copy a file; a link would let changes of the original reach the package."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, path)
    path.chmod(0o644)
    sync_file(path)

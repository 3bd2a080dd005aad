"""The files of a model's folder: the one place that says whether a path stays inside it.

Folders come from strangers. A link in one, or a name that one of its files holds, may lead to a
private key; whoever copies, reads or publishes what lies there would carry it out. The folder
itself may be reached by any link, and a file may be named directly by one: that is the user's word.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from kanna.errors import FormatError, SourceError

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_TODO = "put a copy of the file into the folder, or remove it"


def check(path: Path) -> Path:
    """The path itself, when nothing a runtime would read of it lies elsewhere.

    Of a folder its files are looked at, and those of the folders in it; a path that does not exist
    is for others to refuse.

    Raises:
        FormatError: A link leads out of the folder, or something is no plain file.
    """
    if path.is_dir():
        for entry in listed(path).values():
            if entry.is_dir():
                listed(entry, of=path)
    else:
        _refuse_special(path)
    return path


def listed(folder: Path, of: Path | None = None) -> dict[str, Path]:
    """What a folder holds by name, hidden entries aside; raises as `check` does.

    Args:
        folder: The folder.
        of: The model's folder, where `folder` is one inside it.
    """
    entries = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    return {p.name: inside(of or folder, p) for p in entries}


def walked(folder: Path) -> Iterator[tuple[PurePosixPath, Path]]:
    """Every file below a folder with its path there, hidden ones aside; raises as `check` does.

    Links to folders are not followed.
    """
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(n for n in folders if not n.startswith("."))
        for name in sorted([*names, *(n for n in folders if Path(place, n).is_symlink())]):
            path = Path(place, name)
            if not name.startswith(".") and not inside(folder, path).is_dir():
                yield PurePosixPath(path.relative_to(folder).as_posix()), path


def files(folder: Path) -> dict[str, Path]:
    """The files of a folder by name; raises as `check` does."""
    return {name: path for name, path in listed(folder).items() if path.is_file()}


def named(folder: Path, name: object) -> Path:
    """The file of a folder that one of its files names.

    Raises:
        FormatError: It is no name of a file inside the folder, or there is no such file.
    """
    path = meant(folder, name)
    if not path.is_file():
        raise FormatError(
            f"{path} is missing",
            expected="all files of the folder",
            todo="convert or copy it again",
        )
    return path


def meant(folder: Path, name: object) -> Path:
    """As `named`, whether the file is there or not."""
    if not is_inside_name(name):
        raise FormatError(
            f"{folder} names the file {name!r:.200}", expected="a file inside the folder"
        )
    return inside(folder, folder / str(name))


def is_inside_name(name: object) -> bool:
    """Whether a name can only mean something inside the folder, on any system."""
    if not isinstance(name, str) or not name or not name.isprintable():
        return False
    windows = PureWindowsPath(name)
    return (
        not name.startswith("/") and not windows.drive and not windows.root
        # A colon names a stream or a drive, a backslash another folder, on Windows alone: a model
        # whose files are called so cannot be moved there.
        and not set(name) & {"\\", ":"}
        and ".." not in PurePosixPath(name).parts
    )  # fmt: skip


def inside(folder: Path, path: Path) -> Path:
    """The path itself, when it means something in `folder`; raises as `check` does.

    Files that the hub's library keeps are links to the blobs of the same repository.
    """
    root, target = Path(os.path.realpath(folder)), Path(os.path.realpath(path))
    if not (target.is_relative_to(root) or _is_blob(root, target)):
        raise FormatError(
            f"{path} leads outside its folder, to {target}",
            expected="files that lie inside the folder",
            todo=_TODO,
        )
    _refuse_special(path)
    return path


def _is_blob(root: Path, target: Path) -> bool:
    """Whether `target` is a blob of the repository whose snapshot, or part of one, is `root`."""
    for at in (root, *root.parents):
        if at.parent.name == "snapshots":
            repository = at.parent.parent
            # What the repository's own folder leads to: a link in place of `blobs` is none of it.
            return repository.name.startswith("models--") and target.parent == repository / "blobs"
    return False


def _refuse_special(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # not there, or not for us: whoever reads it says so
    if (kind := _KINDS.get(stat.S_IFMT(mode))) is not None:
        raise FormatError(f"{path} is {kind}", expected="a plain file", todo=_TODO)


def beside(first: Path, other: Path) -> Path:
    """Another part of the model whose first part was named; raises SourceError as `check` does.

    Args:
        first: The file that was named, perhaps a link.
        other: A part in the folder of `first`, under the name that follows from it.
    """
    target = Path(os.path.realpath(other)).parent
    homes = {Path(os.path.realpath(first)).parent, Path(os.path.realpath(first.parent))}
    if target not in homes:
        raise SourceError(
            f"{other} leads to another folder than {first.name}",
            expected="all parts of a model in one folder",
            todo="give the first part where it lies itself",
        )
    _refuse_special(other)
    return other

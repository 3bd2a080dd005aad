"""Names that lead to a device, a pipe or a terminal, where a renamed file must not land."""

from __future__ import annotations

import os
from pathlib import Path

_DEVICES = (Path("/dev"), Path("/dev/fd"))
_WINDOWS = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"}


def is_special(path: Path) -> bool:
    """Whether a path is, or names, something else than a file or a folder."""
    given = path.absolute()
    if path.name == "-" or given.parent in _DEVICES or given.parts[1:2] == ("proc",):
        return not given.is_dir()
    if os.name == "nt" and path.stem.upper() in _WINDOWS:
        return True
    return path.exists() and not path.is_file() and not path.is_dir()


def target(path: Path) -> Path:
    """What an output's name means: of a link, the file or folder it leads to."""
    return path.resolve() if path.is_symlink() and not is_special(path) else path

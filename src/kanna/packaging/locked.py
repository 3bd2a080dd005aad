"""The packages that a service needs, each at one version and known by its hash.

`make lock` writes the files in `locks/`, one for each set of extras that a model is served with.
"""

from __future__ import annotations

from pathlib import Path

from kanna.errors import MissingError

FILE = "requirements.txt"
"""Its name in a package."""
_FOLDER = Path(__file__).with_name("locks")


def path(extras: str) -> Path:
    """The lock of extras by comma.

    Args:
        extras: Such as `serve,onnx`.

    Raises:
        MissingError: There is no lock of these.
    """
    file = _FOLDER / f"{extras.replace(',', '-')}.txt"
    if not file.is_file():
        here = ", ".join(sorted(p.name for p in _FOLDER.glob("*.txt")))
        raise MissingError(
            f"kanna has no locked packages for {extras}",
            expected=f"{file.name} among {here}",
            todo="run `make lock`, which resolves and pins them",
        )
    return file


def requirements(extras: str) -> str:
    """The lines of that lock, for `pip install --require-hashes`.

    Args:
        extras: Such as `serve,onnx`.
    """
    return path(extras).read_text(encoding="utf-8")

"""The folder of a studio: its key, and that only one studio works in it."""

from __future__ import annotations

import os
import webbrowser
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from kanna._util.atomic import write_json
from kanna.errors import KannaError, UsageError
from kanna.escaping import html_text
from kanna.serving.settings import open_store
from kanna.serving.studio.jobs import read_object

_KEY_NAME = "studio"


class StudioHome:
    """A folder of jobs, results and uploaded models.

    Args:
        path: It is made when it does not exist.

    Attributes:
        state: The folder of keys, for its owner only.

    Raises:
        UsageError: It is a file.
        KannaError: It cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.state = self.path / "state"
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{path} is a file", expected="a folder")
        try:
            self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise KannaError(
                f"{path} cannot be made: {error.strerror}", todo="name another folder"
            ) from None

    def check_searched(self, folders: Sequence[Path]) -> tuple[Path, ...]:
        """Folders to look for models in, absolute; raises UsageError for one that is none."""
        for folder in folders:
            if not folder.is_dir():
                raise UsageError(f"{folder} is no folder", expected="a folder with models")
        places = [folder.absolute() for folder in folders]
        return tuple(p for p in places if p != self.path)

    @contextmanager
    def locked(self) -> Generator[None]:
        """The time in which no other studio may work here; raises KannaError."""
        import psutil

        lock, own = self.state / "running.json", psutil.Process()
        other = read_object(lock)
        with suppress(psutil.Error, KeyError):
            process = psutil.Process(other["pid"])
            if process.create_time() == other["since"] and process.pid != own.pid:
                raise KannaError(
                    f"another studio works in {self.path}", todo="end it, or name another folder"
                )
        write_json(lock, {"pid": own.pid, "since": own.create_time()})
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)

    def key(self) -> str:
        """The key of this studio, made at its first start."""
        file = self.state / "key.txt"
        with closing(open_store(self.state)) as store:
            with suppress(OSError):
                text = file.read_text(encoding="ascii").strip()
                known = store.find(text)
                if known and known.revoked is None:
                    return text
            _, text = store.create(_KEY_NAME, scopes=("admin",))
        _write_private(file, text)
        return text

    def open(self, address: str) -> bool:
        """Show a page in a browser; False where there is none.

        The address holds the key, and a command line can be read by every user of the machine: the
        browser is given a file that leads there, which only its owner can read.
        """
        file = self.state / "open.html"
        target = html_text(address)
        _write_private(
            file,
            f'<!doctype html><meta charset="utf-8"><title>kanna</title>'
            f'<meta http-equiv="refresh" content="0;url={target}"><a href="{target}">kanna</a>\n',
        )
        return webbrowser.open(file.as_uri())


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)

"""What a recipe reads from outside: where it lies, and its hash.

A file whose size and time are those of the last run is not read again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from kanna._util.digest import sha256
from kanna._util.progress import Progress
from kanna.errors import KannaError
from kanna.recipes.graph import RecipeStep, StepInstance
from kanna.recipes.loading import folder_of
from kanna.recipes.problems import Problems
from kanna.recipes.records import InputRecord, files_of, unchanged
from kanna.recipes.values import Option
from kanna.recipes.verbs.base import ADAPTER, MODEL

_WEIGHT = re.compile(r"(.+)(=[-+0-9.eE]+)")
_SCHEME = re.compile(r"[a-z]{2,}:")
_SHARD = re.compile(r"(.*-)\d{5}(-of-\d{5}\.gguf)", re.IGNORECASE)


def find(
    instance: StepInstance, step: RecipeStep, known: Iterable[str], problems: Problems
) -> None:
    """Make paths of an instance's options absolute; a file that is missing is a problem.

    Args:
        instance: Whose options they are.
        step: The step that it is of.
        known: Names of models that an earlier run found.
        problems: Where to note what is missing.
    """
    names = frozenset(known)

    def path(value: Option, option: str) -> Option:
        if isinstance(value, list):
            return [path(item, option) for item in value]
        if not isinstance(value, str) or value in step.verb.words:
            return value
        name, weight = split_weight(value, step.verb.inputs[option])
        place = folder_of(value, step.loaded) / Path(name).expanduser()
        is_model = MODEL in step.verb.inputs[option]
        if _exists(place):
            return f"{place.absolute()}{weight}"
        if is_model and (value in names or _SCHEME.match(value) or _on_the_hub(value)):
            return str(value)
        problems.add(
            step.loaded.place("with", option),
            f"{option}: there is no {place}",
            expected="a file, a folder or another name of a model" if is_model else "a file",
            todo="paths are relative to the file that they are written in",
        )
        return str(value)

    for option in step.verb.inputs.keys() & instance.options.keys():
        instance.options[option] = path(instance.options[option], option)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def split_weight(value: str, kinds: frozenset[str]) -> tuple[str, str]:
    """What names a file, and the `=0.5` after it, which only an adapter has."""
    match = _WEIGHT.fullmatch(value) if ADAPTER in kinds else None
    return (match[1], match[2]) if match else (value, "")


def _on_the_hub(value: str) -> bool:
    from kanna.sources import references  # only for what is no path and has no scheme

    try:
        return references.parse(value).kind == "hub"
    except (KannaError, OSError, ValueError):
        return False


class RecipeInputs:
    """Hashes of what steps read, each read once.

    Args:
        known: Records of an earlier run.
        offline: Whether to use only what is on this machine.
        progress: Where fetching and hashing are reported.
    """

    def __init__(self, known: Iterable[InputRecord], *, offline: bool, progress: Progress) -> None:
        self._known = {record.given: record for record in known}
        self._offline, self._progress = offline, progress
        self.used: dict[str, InputRecord] = {}

    @property
    def names(self) -> Iterable[str]:
        """What an earlier run read."""
        return self._known.keys()

    @property
    def records(self) -> list[InputRecord]:
        """What was read, by name: not in the order of steps that run beside each other."""
        return [self.used[name] for name in sorted(self.used)]

    def record(self, given: str) -> InputRecord:
        """The record of a file, a folder or a model by name.

        Raises:
            KannaError: There is no such model, or it cannot be fetched.
            OSError: It cannot be read.
        """
        if given not in self.used:
            self.used[given] = self._read(given)
        return self.used[given]

    def _read(self, given: str) -> InputRecord:
        before = self._known.get(given)
        if before is not None and Path(before.path).exists():
            path = Path(before.path)
            if self._is_same(before, path):
                return before
        path = Path(given) if Path(given).is_absolute() else self._locate(given)
        below = path if path.is_dir() else path.parent
        files = files_of(parts(path), below)
        self._progress.start("hash the inputs", sum(f.bytes for f in files))
        whole = hashlib.sha256(path.name.encode())
        for file in files:
            step = partial(self._progress.advance, detail=file.name)
            file.sha256 = sha256(below / file.name, step)
            whole.update(f"{file.name}\0{file.sha256}\n".encode())
        self._progress.finish()
        return InputRecord(given=given, path=str(path), sha256=whole.hexdigest(), files=files)

    def _is_same(self, before: InputRecord, path: Path) -> bool:
        below = path if path.is_dir() else path.parent
        names = {file.name for file in files_of(parts(path), below)}
        return names == {f.name for f in before.files} and unchanged(before.files, below)

    def _locate(self, given: str) -> Path:
        from kanna.sources import locate  # loads every kind of source

        return locate(given, offline=self._offline, progress=self._progress).absolute()


def parts(path: Path) -> list[Path]:
    """The files and folders at a path: parts of a split file belong together."""
    shard = _SHARD.fullmatch(path.name)
    if shard is not None:
        return sorted(path.parent.glob(f"{shard[1]}*{shard[2]}"))
    if not path.is_dir():
        return [path]
    return sorted(one for one in path.iterdir() if not one.name.startswith("."))

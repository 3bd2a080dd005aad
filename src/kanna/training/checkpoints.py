"""Checkpoints of a training run, so that a killed one goes on and comes to the same weights.

A checkpoint has its final name only when all of it is on the disk; the one before it goes then.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

from kanna._util import own_files
from kanna._util.atomic import write_json
from kanna.errors import KannaError
from kanna.training.run import TrainingRun
from kanna.training.settings import TORCH

EVERY = 60.0
"""Seconds after which a step is followed by a checkpoint."""
_RUN, _BEST, _RATE = "run.json", "best.safetensors", "rate.json"
TEACHER = "teacher.bin"
"""What a teacher says of the examples."""
_COMPLETE = re.compile(r"complete-(\d+)$")
_NOT_JSON = {"state"}


class Checkpoints:
    """The checkpoints of one run, in a folder of its own beside the output.

    Args:
        folder: That folder; its name depends on data, base and settings.
        backend: Whose tensors the values of an adapter are, one of `settings.BACKENDS`.
    """

    def __init__(self, folder: Path, backend: str = TORCH) -> None:
        self.folder = folder
        self._tensors = f"safetensors.{backend}"

    def __enter__(self) -> Checkpoints:
        self.prepare()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A run that failed by itself would fail again; one that was interrupted goes on.
        if isinstance(error, KannaError):
            self.remove()
        elif not (self.latest() or self._kept()):
            own_files.remove(self.folder)

    def prepare(self) -> None:
        """Make the folder, and remove checkpoints of which a killed run wrote only a part."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        latest = self.latest()
        for path in self.folder.iterdir():
            if path not in (latest, *self._kept()):
                own_files.remove(path)

    def latest(self) -> Path | None:
        """The last complete checkpoint; None where there is none."""
        steps = {
            int(match[1]): path
            for path in self.folder.iterdir()
            if (match := _COMPLETE.match(path.name)) and (path / _RUN).is_file()
        }
        return steps[max(steps)] if steps else None

    def begun(self, step: int) -> Path:
        """An empty folder for what a trainer keeps of its state after a step."""
        folder = self.folder / f"checkpoint-{step}"
        own_files.remove(folder)
        folder.mkdir()
        return folder

    def complete(self, made: Path, run: TrainingRun) -> None:
        """Add the run to what a trainer wrote, and give the checkpoint its final name.

        Args:
            made: The folder that the trainer wrote.
            run: The run so far.
        """
        before = self.latest()
        if run.state:
            import_module(self._tensors).save_file(run.state, made / _BEST)
        values = _figures(run)
        write_json(made / _RUN, values)
        for path in made.rglob("*"):
            if path.is_file():
                _sync(path)
        final = self.folder / f"complete-{run.steps}"
        own_files.remove(final)
        made.replace(final)
        if before is not None and before != final:
            own_files.remove(before)

    def begin(self) -> tuple[TrainingRun, Path | None]:
        """A run that goes on from the last checkpoint, and that checkpoint; anew where none is."""
        run, path = TrainingRun(), self.latest()
        if self._rate.is_file():
            run.rate_test = json.loads(self._rate.read_text(encoding="utf-8"))
        if path is None:
            return run, None
        values: dict[str, Any] = json.loads((path / _RUN).read_text(encoding="utf-8"))
        for field in fields(run):
            if field.name in values:
                setattr(run, field.name, values[field.name])
        if (path / _BEST).is_file():
            run.state = dict(import_module(self._tensors).load_file(path / _BEST))
        run.resumed = run.steps
        return run, path

    def keep_rate(self, test: dict[str, Any]) -> None:
        """Keep how the learning rate was found: a run that goes on does not look again."""
        write_json(self._rate, test)

    @property
    def teacher(self) -> Path:
        """Where what a teacher says lies; it is there when all of it is."""
        return self.folder / TEACHER

    def _kept(self) -> list[Path]:
        """What a run that goes on need not do again."""
        return [path for path in (self._rate, self.teacher) if path.is_file()]

    @property
    def _rate(self) -> Path:
        return self.folder / _RATE

    def phase(self, name: str) -> Checkpoints:
        """Those of training that follows this run, with PyTorch.

        Args:
            name: Of that, with what it depends on beside this run.
        """
        return Checkpoints(self.folder.with_name(f"{self.folder.name}-{name}"))

    def remove(self) -> None:
        """Remove all of them, and those of phases that followed: the run has ended."""
        phases = f"{self.folder.name}-"
        for path in self.folder.parent.iterdir():
            if path == self.folder or path.name.startswith(phases):
                own_files.remove(path)


def _figures(run: TrainingRun) -> dict[str, Any]:
    """The figures of a run, without the values of the adapter."""
    return {f.name: getattr(run, f.name) for f in fields(run) if f.name not in _NOT_JSON}


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())

"""The parts of a model: one for each layer, and one for each matrix outside of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanna._util import own_files
from kanna.errors import KannaError
from kanna.executors import parts
from kanna.executors.pools import StepTask
from kanna.executors.step_worker import Perform
from kanna.optimization.context import Workspace
from kanna.plan.roles import LAYER


def layers_of(names: Iterable[str]) -> dict[str, list[str]]:
    """Tensors by layer, `blk.3`; one outside of the layers is a part of its own.

    Args:
        names: As in a GGUF.
    """
    layers: dict[str, list[str]] = {}
    for name in names:
        match = LAYER.match(name)
        layers.setdefault(f"blk.{match.group(1)}" if match else name, []).append(name)
    return layers


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWork:
    """What is done with every layer, each by itself.

    Attributes:
        step: What it is called where machines reserve for it.
        workspace: The calibrated source, and the executor.
        folder: Where the parts lie until they are put together.
        key: What all of it depends on.
        call: Makes the work on some tensors, which another process can load.
        is_whole: Whether the folder of a part has what such work makes.
        reads: What the work reads beside source and statistics.
    """

    step: str
    workspace: Workspace
    folder: Path
    key: Sequence[Any]
    call: Callable[[tuple[str, ...]], Perform]
    is_whole: Callable[[Path, Sequence[str]], bool]
    reads: Sequence[Path] = ()

    def perform(self, tensors: Iterable[str]) -> list[Path]:
        """Do it where it was not done yet; the folders of the parts, in the order of the layers.

        Args:
            tensors: What it is done with.

        Raises:
            KannaError: A part could not be done, or is not what was asked for.
        """
        place = self.workspace.context.place
        assert place is not None, "there is nowhere to spread it"
        asked = hashlib.sha256(json.dumps(self.key).encode()).hexdigest()[:16]
        home = self.folder / asked
        for other in self.folder.glob("*"):
            if other != home:  # of another budget, or other statistics
                own_files.remove(other)
        layers = layers_of(tensors)
        folders = {name: home / name for name in layers}
        missing = [name for name in layers if not self.is_whole(folders[name], layers[name])]
        tasks = [self._task(name, folders[name], layers) for name in missing]
        if tasks:
            home.mkdir(parents=True, exist_ok=True)
            own_files.sweep_for(home)
            place.perform(tasks, progress=self.workspace.context.progress, what=self.step)
        for name in missing:
            if not self.is_whole(folders[name], layers[name]):
                raise KannaError(
                    f"{folders[name]} is not what was asked for",
                    todo="hold kanna's version on the machines to that here",
                )
        return list(folders.values())

    def done(self) -> None:
        """Remove the parts: they were put together."""
        own_files.remove(self.folder)

    def _task(self, name: str, folder: Path, layers: Mapping[str, Sequence[str]]) -> StepTask:
        workspace, tensors = self.workspace, tuple(layers[name])
        inputs = (workspace.source.path, workspace.calibrated, *self.reads)
        asked = json.dumps([self.step, self.key, tensors])
        return StepTask(
            id=name,
            step=self.step,
            key=hashlib.sha256(asked.encode()).hexdigest()[:32],
            folder=folder,
            work=self.call(tensors),
            reads=tuple(parts.sent(path) for path in inputs),
        )


def located(places: Mapping[str, str], path: str) -> Path:
    """Where something that was sent lies here.

    Args:
        places: Where what was sent lies, by its path on the machine that asks.
        path: There.
    """
    return Path(places.get(path, path))

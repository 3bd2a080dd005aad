"""One calibration in several parts: each in a process or on a machine of its own, then merged.

The parts are those of `calibrate --shard`, and what they write lies beside the folder until all are
there. So an interrupted run asks for the parts that are missing, and the merged statistics have the
same bytes wherever their parts were made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanna._util import own_files
from kanna._util.progress import Progress, Silent
from kanna.calibration import gradients
from kanna.calibration import statistics as stored
from kanna.calibration.shards.merging import merged
from kanna.calibration.shards.part import MOST, Shard
from kanna.calibration.windows import CalibrationWindows
from kanna.errors import KannaError, UsageError
from kanna.executors import parts
from kanna.executors.pools import StepTask
from kanna.model import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardCall:
    """The calibration of one part, which another process can load.

    Attributes:
        calibrate: The verb.
        source: The model, on the machine that asks.
        texts: What is read, there; None: the built-in set.
        options: Further options of the verb.
    """

    calibrate: Callable[..., object]
    source: str
    texts: tuple[str, ...] | None
    options: Mapping[str, Any]

    def __call__(self, folder: Path, places: Mapping[str, str]) -> None:
        """Calibrate.

        Args:
            folder: Where the statistics belong.
            places: Where what is read lies here, by its path on the machine that asks.
        """
        texts = None if self.texts is None else [places.get(text, text) for text in self.texts]
        source = places.get(self.source, self.source)
        self.calibrate(source, folder, calibration=texts, progress=Silent(), **self.options)


def parts_of(out: Path) -> Path:
    """Where the shards lie until the statistics of the whole text are written."""
    return out.with_name(f"{out.name}-shards")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardedText:
    """A text in parts.

    Attributes:
        model: The model that reads it.
        windows: All of the text.
        key: What the statistics of the whole depend on.
        count: How many parts.
        gradients: Whether each has gradients, too.
    """

    model: Model
    windows: CalibrationWindows
    key: Mapping[str, Any]
    count: int
    gradients: bool

    def write(
        self, out: Path, call: ShardCall, on: str, on_set: parts.Settings, progress: Progress
    ) -> None:
        """Write the statistics of the whole.

        Args:
            out: Their folder.
            call: The calibration without a part.
            on: Name of an executor.
            on_set: Its options.
            progress: Where progress is reported.

        Raises:
            UsageError: There are fewer windows than parts, or no such executor.
            KannaError: A part could not be calibrated.
        """
        folders = [self._folder(out, number) for number in self._numbers()]
        out.mkdir(parents=True, exist_ok=True)
        own_files.sweep_for(out)
        tasks = [
            self._task(call, number, folder)
            for number, folder in zip(self._numbers(), folders, strict=True)
            if not self._is_there(number, folder)
        ]
        parts.perform(on, on_set, tasks, progress=progress, what="shards")
        for number, folder in zip(self._numbers(), folders, strict=True):
            if not self._is_there(number, folder):
                raise KannaError(
                    f"{folder} is not the shard that was asked for",
                    todo="hold kanna's version and the text on the machines to those here",
                )
        merged(folders, out, self.model, overwrite=True, progress=progress)
        own_files.remove(parts_of(out))

    def _numbers(self) -> Sequence[int]:
        return range(1, self.count + 1)

    def _folder(self, out: Path, number: int) -> Path:
        return parts_of(out) / f"{number}-of-{self.count}"

    def _key(self, number: int) -> dict[str, Any]:
        part = Shard(number=number, count=self.count)
        first = part.of(self.windows).first
        return dict(self.key) | {
            stored.SHARD: {"number": number, "count": self.count, "first": first}
        }

    def _is_there(self, number: int, folder: Path) -> bool:
        """Whether an earlier run of the same calibration wrote this part."""
        key = self._key(number)
        if not stored.is_shard_of(folder, key):
            return False
        read, _ = gradients.windows_read(self.model, self.windows.ids.shape[1])
        has = (folder / gradients.FILE).is_file()
        return has or not self.gradients or key[stored.SHARD]["first"] >= read

    def _task(self, call: ShardCall, number: int, folder: Path) -> StepTask:
        options = dict(call.options) | {"shard": f"{number}/{self.count}"}
        one = ShardCall(
            calibrate=call.calibrate, source=call.source, texts=call.texts, options=options
        )
        asked = json.dumps([self._key(number), options], sort_keys=True)
        return StepTask(
            id=folder.name,
            step="calibrate",
            key=hashlib.sha256(asked.encode()).hexdigest()[:32],
            folder=folder,
            work=one,
            reads=tuple(parts.sent(Path(path)) for path in (call.source, *(call.texts or ()))),
        )


def check_parts(
    shard: str | None, shards: int | None, on: str | None, calibration: Sequence[object]
) -> None:
    """Raise UsageError for options that do not go together.

    Args:
        shard: One part alone.
        shards: How many parts.
        on: Where they are read.
        calibration: What is read, as it was named.
    """
    if shards is None:
        if on is not None:
            raise UsageError(f"--on {on} runs parts of a text", expected="--shards N beside it")
        return
    if shard is not None:
        raise UsageError("--shard and --shards were given together", expected="one of them")
    if not 1 <= shards <= MOST:
        raise UsageError(f"--shards {shards}", expected=f"from 1 to {MOST}")
    if "self" in map(str, calibration):
        raise UsageError(
            "--shards reads files, and `self` samples a text first",
            expected="files, or the built-in text",
            todo="leave --shards out, or sample on one machine and name the text",
        )

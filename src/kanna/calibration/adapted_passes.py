"""Statistics of a base that adapters will ride on: the text is read without and with each of them.

A matrix of the base multiplies the same inputs whether an adapter lies beside it or is merged into
it, so each pass reads the model with one adapter merged in. What every pass sums up is added, as
shards of one text are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanna import families
from kanna._util import own_files
from kanna._util.atomic import write_text
from kanna._util.progress import Progress, remark
from kanna.adapters import AdapterWeights, merged_source, open_adapters
from kanna.calibration import gradients
from kanna.calibration import statistics as stored
from kanna.calibration.shards.merging import merged
from kanna.calibration.windows import CalibrationWindows
from kanna.errors import UsageError
from kanna.model import Model
from kanna.sources import Source

ADAPTERS = "adapters"
"""In an index: the hashes of the model with each adapter merged in."""
WriteStatistics = Callable[[Model, CalibrationWindows, Path, dict[str, Any]], None]
"""Writes the statistics of a model and a text into a folder, under a key."""


def adapted_sources(
    source: Source, adapter: AdapterWeights | None, *, offline: bool
) -> list[Source]:
    """The source with each adapter merged in, one at a time.

    Args:
        source: The base, from a folder.
        adapter: The adapters; None: there is none.
        offline: Use only what is on this machine.

    Raises:
        SourceError: One is none, or of another base.
    """
    if adapter is None:
        return []
    return [merged_source(source, [one]) for one in open_adapters(adapter, offline=offline)]


def adapters_key(adapted: Sequence[Source], progress: Progress) -> dict[str, Any]:
    """What statistics depend on beside the base and the text.

    Args:
        adapted: As `adapted_sources` gives them.
        progress: Where reading them is reported.
    """
    hashes = [[one.hashes(progress), *one.merged] for one in adapted]
    return {ADAPTERS: hashes} if hashes else {}


def refuse_parts(adapter: AdapterWeights | None, shard: str | None, shards: int | None) -> None:
    """Raise UsageError where a text is to be read under adapters, and in parts."""
    if adapter is not None and (shard is not None or shards is not None):
        raise UsageError(
            f"--adapter and {'--shard' if shard is not None else '--shards'} were given together",
            expected="the whole text, under each adapter",
            todo="leave one of them out",
        )


def parts_of(out: Path) -> Path:
    """Where the statistics of single passes lie until those of all are written."""
    return out.with_name(f"{out.name}-passes")


@dataclass(frozen=True, slots=True)
class AdaptedPasses:
    """The passes over a text.

    Attributes:
        adapted: The model with each adapter.
        base: The same without one.
        windows: The text.
        key: What the statistics of all passes depend on.
        gradients: Whether each has gradients, too.
        device: Where they are computed; None: an accelerator when there is one.
    """

    adapted: Sequence[Source]
    base: Model
    windows: CalibrationWindows
    key: Mapping[str, Any]
    gradients: bool
    device: str | None

    def run(self, out: Path, write: WriteStatistics, progress: Progress) -> list[str]:
        """Write the statistics of all passes; returns remarks.

        A run that was ended goes on with the pass that it was at.

        Args:
            out: Their folder.
            write: Writes the statistics of one pass.
            progress: Where progress is reported.
        """
        folders: list[Path] = []
        remarks: list[str] = []
        for number in range(len(self.adapted) + 1):
            folder = parts_of(out) / str(number)
            key = self._key(number)
            adapted = self.adapted[number - 1] if number else None
            model = self.base if adapted is None else families.load_decoder(adapted)
            how = "without an adapter" if adapted is None else f"with {', '.join(adapted.merged)}"
            remark(progress, f"The text is read {how}: {number + 1} of {len(self.adapted) + 1}.")
            if not stored.is_shard_of(folder, key):
                write(model, self.windows, folder, key)
            if adapted is not None:  # the held-out text is once in what is merged
                write_text(folder / stored.HELD_TEXT, "")
            if self.gradients:
                digest = stored.read(folder, shard=True).sha256
                remarks += gradients.gradients(
                    model, self.windows, folder, digest, device=self.device, progress=progress
                )
            folders.append(folder)
        merged(folders, out, self.base, overwrite=True, progress=progress)
        own_files.remove(parts_of(out))
        return remarks

    def _key(self, number: int) -> dict[str, Any]:
        count = len(self.adapted) + 1
        return dict(self.key) | {stored.SHARD: {"number": number + 1, "count": count, "first": 0}}

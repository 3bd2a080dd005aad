"""The verb `statistics`: the statistics of a whole text from those of its shards.

Second moments and gradients are sums over the windows of a text: `calibrate --shard 1/4` reads a
quarter of them, on whatever machine, and what four machines wrote is added up here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kanna import families
from kanna._util.bars import shown
from kanna._util.progress import Progress
from kanna._util.results import Result
from kanna.calibration.shards.merging import merged
from kanna.errors import UsageError
from kanna.sources import Source, open_source

__all__ = ["MergedStatistics", "statistics"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class MergedStatistics(Result):
    """Statistics that were merged.

    Attributes:
        folder: Where they are.
        shards: The folders they were merged from, in the order of the text.
        sites: Places whose inputs were measured.
        tokens: Tokens that count.
        gradients: Whether the shards had gradients, which were merged too.
        seconds: Time it took.
    """

    folder: str
    shards: list[str] = field(default_factory=list[str])
    sites: int
    tokens: int
    gradients: bool
    seconds: float

    def headline(self) -> str:
        """Where they are."""
        return f"{self.folder}: {self.sites} matrices, {self.tokens} tokens of {len(self.shards)}"

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return asdict(self)


def statistics(
    action: str,
    shards: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    source: str | Path | Source,
    revision: str | None = None,
    offline: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> MergedStatistics:
    """Merge the statistics of all shards of a text: equal to those of the whole, but for rounding.

    Args:
        action: `merge`.
        shards: Folders that `calibrate` wrote with `shard`, all of one text.
        out: The folder to write.
        source: The model they are of: its rows decide how far second moments are trusted.
        revision: Branch, tag or commit of a model on the hub.
        offline: Use only what is on this machine.
        overwrite: Replace statistics that are there.
        progress: Where progress is reported; None: a bar in terminals and notebooks.

    Raises:
        UsageError: A shard is missing, there twice, or of another text, model or setting.
        PlanError: A folder holds no statistics, or those of another model.
        FormatError: A folder is damaged.
        OutputError: The output cannot be used.
    """
    if action != "merge":
        raise UsageError(f"no action {action!r}", expected="merge")
    begin, bar = time.perf_counter(), shown(progress)
    folders = [Path(one) for one in ([shards] if isinstance(shards, (str, Path)) else shards)]
    opened = open_source(
        source,
        revision=revision,
        offline=offline,
        preflight=families.load_decoder,
        progress=bar,
    )
    made = merged(
        folders, Path(out), families.load_decoder(opened), overwrite=overwrite, progress=bar
    )
    return MergedStatistics(
        folder=str(out),
        shards=[str(one.folder) for one in made.shards],
        sites=len(made.statistics.sites),
        tokens=int(made.statistics.info["tokens"]),
        gradients=made.gradients,
        seconds=time.perf_counter() - begin,
    )

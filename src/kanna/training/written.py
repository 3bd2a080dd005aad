"""What is written of a run: adapter, held-out examples, report and page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kanna import __version__
from kanna._util.atomic import write_json, write_text
from kanna.adapters import base_model
from kanna.provenance import SOURCE_HASHES
from kanna.report import adapt_page
from kanna.report.write import plain
from kanna.tracking import lineage
from kanna.training import learned, objectives
from kanna.training.examples import HELD_OUT
from kanna.training.job import AdapterJob
from kanna.training.result import AdaptResult

REPORT, PAGE = "report.json", "report.html"
"""Beside the adapter: the run, and its page."""
HELD_OUT_PAIRS = "held-out-pairs.jsonl"
"""The same with both answers, where pairs were learned."""


def adapter(job: AdapterJob, save: Callable[[Path], None], folder: Path) -> None:
    """Write the adapter, which base it is of, and what it learned and did not.

    Args:
        job: The run.
        save: Writes the adapter into a folder.
        folder: The folder, which exists.
    """
    save(folder)
    wanted = objectives.get(job.settings.objective).wanted(job.split.held_out)
    write_text(folder / HELD_OUT, "".join(f"{e.to_json()}\n" for e in wanted))
    learned.write(folder, job.split.training)
    base_model.write(folder, job.source)
    if job.settings.objective in objectives.PAIRS:
        pairs = "".join(f"{e.to_json()}\n" for e in job.split.held_out)
        write_text(folder / HELD_OUT_PAIRS, pairs)


def report(folder: Path, result: AdaptResult) -> None:
    """Write what is known of the run.

    Args:
        folder: That of the adapter.
        result: What came of it.
    """
    data = result.to_dict() | {"kanna": __version__}
    write_json(folder / REPORT, data)
    write_text(folder / PAGE, adapt_page(plain(data)))


def track(job: AdapterJob, out: Path, result: AdaptResult) -> None:
    """Tell the tracker, if there is one, what came of a run.

    Args:
        job: The run.
        out: Where the adapter is.
        result: What came of it.
    """
    if not job.tracked.on:
        return
    job.tracked.tags({**lineage.of_artefact(out), SOURCE_HASHES: job.source.hashes()})
    names = ("base_loss", "tuned_loss", "best_step", "tokens", "seconds")
    figures = result.to_dict()
    job.tracked.metrics({name: figures[name] for name in names}, result.steps)
    job.tracked.file(out, "adapter")

"""An adapter trained by mlx-lm."""

from __future__ import annotations

from functools import partial
from typing import Any

from kanna.training import mlx_training, written
from kanna.training.job import AdapterJob, Learning, Trained


def learn(job: AdapterJob, task: Learning) -> Trained:
    """Train, and write the adapter.

    Args:
        job: The run.
        task: What it learns, and where it is written.
    """
    training = mlx_training.MLXTask(
        folder=job.folder,
        training=task.training,
        held_out=task.held_out,
        settings=job.settings,
        checkpoints=task.checkpoints,
        progress=task.progress,
        tracked=job.tracked,
    )
    run = training.run()
    costs = run.costs() | {"predicted_bytes": None}
    costs["peak_bytes"] = mlx_training.peak_bytes()
    changed: dict[str, Any] = {
        "base_figures": run.base_figures,
        "tuned_figures": run.best_figures,
        "costs": costs,
        "aware": {},
    }
    written.adapter(job, partial(training.save, run, job.source.given), task.folder)
    return Trained(run=run, changed=changed)

"""Runs at an MLflow server, or in a database of one."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanna.tracking import servers
from kanna.tracking.base import Point, RunBackend

DEFAULT = "kanna"
"""The experiment of runs that name none."""
_PARENT = "mlflow.parentRunId"
_MOST = 90
"""Values in one request; MLflow takes a hundred."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MlflowRun:
    """A run.

    Attributes:
        client: MLflow's.
        experiment: Its id.
        id: Of the run.
    """

    client: Any
    experiment: str
    id: str

    def parameters(self, values: Mapping[str, str]) -> None:
        """What the run was asked for."""
        from mlflow.entities import Param  # pyright: ignore[reportMissingTypeStubs]

        every = [Param(key, value) for key, value in values.items()]
        for first in range(0, len(every), _MOST):
            self.client.log_batch(self.id, params=every[first : first + _MOST])

    def metrics(self, points: Sequence[Point]) -> None:
        """What was measured, by step."""
        from mlflow.entities import Metric  # pyright: ignore[reportMissingTypeStubs]

        now = int(time.time() * 1000)
        every = [
            Metric(key, float(value), now, step)
            for step, values in points
            for key, value in values.items()
        ]
        for first in range(0, len(every), _MOST):
            self.client.log_batch(self.id, metrics=every[first : first + _MOST])

    def tags(self, values: Mapping[str, str]) -> None:
        """What it was made from, and by what."""
        from mlflow.entities import RunTag  # pyright: ignore[reportMissingTypeStubs]

        self.client.log_batch(self.id, tags=[RunTag(key, value) for key, value in values.items()])

    def file(self, path: Path, folder: str) -> None:
        """A file, into a folder of the run."""
        self.client.log_artifact(self.id, str(path), folder or None)

    def child(self, name: str) -> RunBackend:
        """A run below this one."""
        made = self.client.create_run(self.experiment, tags={_PARENT: self.id}, run_name=name)
        return MlflowRun(client=self.client, experiment=self.experiment, id=made.info.run_id)

    def end(self, status: str) -> None:
        """How it ended."""
        self.client.set_terminated(self.id, status)


def begin(address: str, experiment: str | None, name: str) -> MlflowRun:
    """Begin a run.

    Args:
        address: Of the server, or of a database.
        experiment: Where it belongs; made where there is none of that name.
        name: Of the run.

    Raises:
        KannaError: As `servers.connect` does.
    """
    client = servers.connect(address, expected=servers.TRACKERS)
    try:
        number = _experiment(client, address, experiment or DEFAULT)
        run = client.create_run(number, run_name=name)
    except Exception as error:  # whatever its stores and their drivers raise
        raise servers.explained(error, address) from error
    return MlflowRun(client=client, experiment=number, id=run.info.run_id)


def _experiment(client: Any, address: str, name: str) -> str:
    present = client.get_experiment_by_name(name)
    if present is not None:
        return str(present.experiment_id)
    place = None
    if servers.is_local(address):  # else MLflow makes a folder wherever the command is run
        path = servers.database(address)
        place = path.with_name(f"{path.stem}-files").as_uri()
    return str(client.create_experiment(name, artifact_location=place))

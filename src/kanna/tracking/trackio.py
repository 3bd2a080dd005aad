"""Runs in trackio's files on this machine: a database for each project, and no server.

trackio's `init` asks the hub who owns a token that lies here, follows variables to a Space, prints,
and writes from a thread that keeps errors to itself. Its storage does none of that: kanna writes
with it, and the extra names the release that it knows.
"""

from __future__ import annotations

import importlib
import io
import os
import re
import uuid
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from kanna._util import extras
from kanna.errors import SourceError, UsageError
from kanna.tracking.base import Point, RunBackend

EXTRA = "trackio"
DEFAULT = "kanna"
"""The project of runs that name none."""
_HUB = ("TRACKIO_BUCKET_ID", "TRACKIO_DATASET_ID")
"""Variables for which trackio's storage would fetch from the hub before its first write."""
_RESERVED = frozenset({"project", "run", "timestamp", "step", "time", "metrics"})
_ODD = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectStore:
    """Where the runs of a project are written.

    Attributes:
        project: Its name.
        storage: trackio's.
        fragments: Its writer of files that a dashboard takes in later, where the folder lies on a
            network's file system; None: straight into the database.
    """

    project: str
    storage: Any
    fragments: Any = None

    def write(self, run: TrackioRun, points: Sequence[Point]) -> None:
        """Rows of a run, and its configuration as it is now."""
        now = datetime.now(timezone.utc).isoformat()
        rows = [
            {
                "project": self.project,
                "run": run.name,
                "run_id": run.id,
                "metrics": {_metric(name): value for name, value in values.items()},
                "step": step,
                "timestamp": now,
                "config": run.config if number == 0 else None,
                "log_id": uuid.uuid4().hex,
            }
            for number, (step, values) in enumerate(points)
        ]
        if self.fragments is not None:
            record = importlib.import_module("trackio.fragments").metric_record
            self.fragments.write_local([record(row) for row in rows])
            return
        self.storage.bulk_log(
            project=self.project,
            run=run.name,
            run_id=run.id,
            metrics_list=[row["metrics"] for row in rows],
            steps=[row["step"] for row in rows],
            timestamps=[now] * len(rows),
            log_ids=[row["log_id"] for row in rows],
            config=run.config,
        )

    def keep(self, run: TrackioRun, path: Path, folder: str) -> None:
        """A copy of a file, as a version of the artefact of that name."""
        name = _ODD.sub("-", path.name)
        file = importlib.import_module("trackio").Artifact(name, folder or "report")
        file.add_file(path, name=f"{folder}/{path.name}" if folder else path.name)
        self.storage.commit_artifact_version(
            project=self.project,
            name=name,
            type=file.type,
            description=None,
            manifest=file._build_manifest(self.project),
            metadata={"path": str(path.absolute())},
            aliases=[],
            run_name=run.name,
            run_id=run.id,
        )


@dataclass(slots=True, kw_only=True)
class TrackioRun:
    """A run.

    Attributes:
        store: Of its project.
        name: For people.
        id: Of the run.
        config: Parameters and tags, and what trackio says of every run.
    """

    store: ProjectStore
    name: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    _step: int = 0

    def __post_init__(self) -> None:
        created = datetime.now(timezone.utc).isoformat()
        self.config = {"_Username": None, "_Created": created, "_Group": None, **self.config}

    def parameters(self, values: Mapping[str, str]) -> None:
        """What the run was asked for; it is seen from now on."""
        self.tags(values)
        self.metrics([(self._step, {})])

    def metrics(self, points: Sequence[Point]) -> None:
        """What was measured, by step."""
        self.store.write(self, points)
        self._step = max(self._step, *(step for step, _ in points))

    def tags(self, values: Mapping[str, str]) -> None:
        """What it was made from, and by what; written with what is measured next."""
        # Names that begin with _ are trackio's own.
        self.config.update({name.lstrip("_"): value for name, value in values.items()})

    def file(self, path: Path, folder: str) -> None:
        """A file, into a folder of the run."""
        self.store.keep(self, path, folder)

    def child(self, name: str) -> RunBackend:
        """A run of the same group."""
        above = {"_Group": self.config["_Group"] or self.name, "kanna.parent": self.id}
        return TrackioRun(store=self.store, name=name, config=above)

    def end(self, status: str) -> None:
        """How it ended."""
        self.tags({"kanna.status": status})
        self.metrics([(self._step, {})])


def is_trackio(address: str) -> bool:
    """Whether runs go to trackio: `trackio` or `trackio:PROJECT`."""
    return address.partition(":")[0] == "trackio"


def begin(address: str, experiment: str | None, name: str) -> TrackioRun:
    """Begin a run; nothing is written yet.

    Args:
        address: `trackio` or `trackio:PROJECT`.
        experiment: The project, where the address names none.
        name: Of the run.

    Raises:
        UsageError: It is no name of a project.
        MissingError: The extra `trackio` is not installed.
        SourceError: Its folder cannot be written.
    """
    project = _project(address, experiment)
    extras.require(EXTRA, "--track trackio")
    module = importlib.import_module("trackio.sqlite_storage")
    storage = module.SQLiteStorage
    try:
        storage.validate_project_name(project)
    except ValueError as error:
        raise UsageError(f"trackio takes no project {project}: {error}") from error
    folder = Path(module.TRACKIO_DIR)
    hidden = {key: os.environ.pop(key) for key in _HUB if key in os.environ}
    try:
        storage.load_from_dataset()
        folder.mkdir(parents=True, exist_ok=True)
        store = ProjectStore(project=project, storage=storage, fragments=_fragments())
        if store.fragments is None:
            storage.init_db(project)
    except Exception as error:  # whatever SQLite and its own locks raise
        raise SourceError(
            f"trackio cannot write to {folder}: {error}",
            expected="a folder that can be written",
            todo="name another: TRACKIO_DIR=FOLDER",
        ) from error
    finally:
        os.environ.update(hidden)
    return TrackioRun(store=store, name=name)


def _project(address: str, experiment: str | None) -> str:
    """The project that an address or an experiment names."""
    _, colon, named = address.partition(":")
    if named and experiment is not None and experiment != named:
        raise UsageError(
            f"--track {address} names one project, and --experiment {experiment} another",
            todo="leave one of them out",
        )
    project = named if colon else experiment or DEFAULT
    # trackio leaves other characters out of the file's name: two projects would share it.
    if not re.fullmatch(r"[A-Za-z0-9_-]+", project):
        raise UsageError(
            f"{project or 'nothing'} is no project of trackio",
            expected="letters, digits, - and _: --track trackio:edge",
        )
    return project


def _fragments() -> Any:
    """The writer for a folder on a network's file system; None elsewhere."""
    with redirect_stdout(io.StringIO()):  # where --json writes
        mode = importlib.import_module("trackio.utils").get_storage_mode()
    if mode != "jsonl":
        return None
    return importlib.import_module("trackio.fragments").FragmentWriter()


def _metric(name: str) -> str:
    """A name as trackio's `log` writes it."""
    return f"__{name}" if name in _RESERVED else name

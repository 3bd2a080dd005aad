"""Jobs and their folders: what was asked, how far it is, what became of it.

A job is `jobs/ID/` with `job.json`, which the studio alone writes, `progress.json`, `result.json`
and `error.json`, which the process of the job writes, its `log.txt`, and what it makes in `out/`.
Every JSON file is whole or not there.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kanna._util.atomic import write_json
from kanna.errors import KannaError
from kanna.serving.problems import ApiError
from kanna.sources import references

QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"
MAX_ATTEMPTS = 3
"""Times that a job is begun by itself: one that ends the machine must not do so at every start."""
_PRECISION = re.compile(
    r"[-._](i?q\d\w*|tq\d\w*|bf16|f16|f32|fp16|fp32|mxfp4|nvfp4)$", re.IGNORECASE
)


@dataclass(slots=True, kw_only=True)
class StudioJob:
    """One run of a verb. Times are seconds since 1970.

    Attributes:
        id: Name of its folder.
        verb: `convert`, `optimize` or `compare`.
        source: What is converted, as every verb takes it.
        options: Of the verb, by the names it has in Python.
        ticket: What the addresses of its files hold: a link cannot send a key.
        state: `queued`, `running`, `done`, `failed` or `cancelled`.
        attempts: How often it was begun.
        error: What went wrong: `found`, `expected` and `todo`.
        original_of: The job that this one makes the unquantized model for; empty for any other.
    """

    id: str
    verb: str
    source: str
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    ticket: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    state: str = QUEUED
    created: float = field(default_factory=time.time)
    started: float | None = None
    ended: float | None = None
    attempts: int = 0
    error: dict[str, str] | None = None
    original_of: str = ""

    @property
    def active(self) -> bool:
        """Whether it waits or runs."""
        return self.state in (QUEUED, RUNNING)


def model_name(source: str) -> str:
    """A file name for a model, without folder, ending or the precision it had."""
    # A folder of the hub's cache has the name of a commit; the model's stands in front of it.
    snapshot = re.search(r"models--[^/\\]+?--([^/\\]+)[/\\]snapshots[/\\]", source)
    last = snapshot[1] if snapshot else _label(source)
    last = re.sub(r"(-\d{5}-of-\d{5})?\.gguf$", "", last, flags=re.IGNORECASE)
    return re.sub(r"[^\w.+-]+", "-", _PRECISION.sub("", last)).strip("-.")[:100] or "model"


def _label(source: str) -> str:
    try:
        label = references.parse(source.rstrip("/\\") or "/").label
    except KannaError:  # whatever runs the job says so
        label = source
    return re.split(r"[/\\]", label)[-1]


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


class JobStore:
    """Every job of a folder, by its id, the oldest first.

    Args:
        folder: It is made when it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder / "jobs"
        self.root.mkdir(parents=True, exist_ok=True)
        known = [_read(path) for path in self.root.glob("*/job.json")]
        self.jobs = {job.id: job for job in sorted(filter(None, known), key=lambda j: j.created)}
        for job in self.jobs.values():
            if job.state == RUNNING:
                self._take_up(job)

    def _take_up(self, job: StudioJob) -> None:
        """Queue a job again that ran when the studio ended."""
        if job.attempts < MAX_ATTEMPTS:
            job.state = QUEUED
        else:
            self.settle(job, FAILED, error={"found": f"it was cut off {job.attempts} times"})
        self.save(job)

    def folder(self, job: StudioJob) -> Path:
        """The folder of a job."""
        return self.root / job.id

    def save(self, job: StudioJob) -> None:
        """Write what is known of a job."""
        self.folder(job).mkdir(exist_ok=True)
        write_json(self.folder(job) / "job.json", asdict(job))

    def add(
        self, verb: str, source: str, options: Mapping[str, Any], original_of: str = ""
    ) -> StudioJob:
        """A new job, queued."""
        stamp = time.strftime("%Y%m%d-%H%M%S")
        job = StudioJob(
            id=f"{stamp}-{secrets.token_hex(3)}",
            verb=verb,
            source=source,
            options=dict(options),
            original_of=original_of,
        )
        self.jobs[job.id] = job
        self.save(job)
        return job

    def find(self, job_id: str) -> StudioJob:
        """The job of that id; raises ApiError 404."""
        job = self.jobs.get(job_id)
        if job is None:
            raise ApiError(404, f"no job {job_id[:60]!r}", code="not_found")
        return job

    def settle(self, job: StudioJob, state: str, error: dict[str, str] | None = None) -> None:
        """A job has ended."""
        job.state, job.error, job.ended = state, error, time.time()
        self.save(job)

    def requeue(self, job: StudioJob) -> None:
        """Run a job once more; what it finished is used again."""
        job.state, job.error, job.started, job.ended, job.attempts = QUEUED, None, None, None, 0
        self.forget_outcome(job)
        self.save(job)

    def forget_outcome(self, job: StudioJob) -> None:
        """Remove what an earlier run of a job said of itself."""
        for name in ("progress.json", "result.json", "error.json"):
            (self.folder(job) / name).unlink(missing_ok=True)

    def remove(self, job: StudioJob) -> None:
        """Delete a job with everything it made."""
        # Without it the folder is no job, however far the removal gets.
        (self.folder(job) / "job.json").unlink(missing_ok=True)
        shutil.rmtree(self.folder(job), ignore_errors=True)
        del self.jobs[job.id]


def _read(path: Path) -> StudioJob | None:
    """The job that a file describes; None for a file that is none."""
    try:
        job = StudioJob(**read_object(path))
    except TypeError:
        return None
    return job if job.id == path.parent.name else None

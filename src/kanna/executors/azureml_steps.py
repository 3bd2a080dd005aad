"""The jobs of a pipeline in a workspace of Azure ML: what state each of them is in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

FAILED = "Failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineChild:
    """A job of a pipeline.

    Attributes:
        name: Of the job, as the service knows it.
        title: As the pipeline calls it.
        state: As the service calls it.
    """

    name: str
    title: str
    state: str


class PipelineChildren:
    """The jobs of a pipeline, as they begin and end.

    Args:
        jobs: What the SDK does with jobs.
        parent: Name of the job that is the pipeline.
        remark: Is told of each new state.
    """

    def __init__(self, jobs: Any, parent: str, remark: Callable[[str], None]) -> None:
        self._jobs, self._parent, self._remark = jobs, parent, remark
        self._last: dict[str, PipelineChild] = {}

    def look(self) -> None:
        """Ask for all of them, and tell what has changed."""
        for job in self._jobs.list(parent_job_name=self._parent):
            if job is None:  # of a kind that the SDK does not know
                continue
            child = PipelineChild(
                name=str(job.name),
                title=str(job.display_name or job.name),
                state=str(getattr(job.status, "value", job.status)),
            )
            if self._last.get(child.name) != child:
                self._last[child.name] = child
                self._remark(f"{child.title}: {child.state}")

    def failed(self) -> list[PipelineChild]:
        """Those that failed, when they were last asked for."""
        return [child for child in self._last.values() if child.state == FAILED]

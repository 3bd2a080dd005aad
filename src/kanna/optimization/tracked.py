"""What a tracking server is told of an optimization."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from kanna import tracking
from kanna.optimization.request import OptimizeRequest
from kanna.optimization.result import OptimizeResult
from kanna.tracking import TrackedRun, TrackRequest, lineage

_ASKED = (
    "source",
    "format",
    "size",
    "bpw",
    "like",
    "memory",
    "context",
    "target",
    "effort",
    "tokens",
    "windows",
    "keep",
    "exclude",
    "rules",
)
_FIGURES = (
    "file_bytes",
    "budget",
    "bits_per_weight",
    "kl_mean",
    "top1",
    "predicted",
    "rival_kl",
)


def follow(
    request: OptimizeRequest, server: TrackRequest, remark: Callable[[str], None] | None
) -> AbstractContextManager[TrackedRun]:
    """The run at a tracking server, from what was asked for to how it ended.

    Args:
        request: What is asked for.
        server: Which server.
        remark: Is told when it is lost.
    """
    return tracking.following(
        server,
        "optimize",
        request.out.name,
        unsent=request.out / "untracked.jsonl",
        parameters={name: getattr(request, name) or None for name in _ASKED},
        remark=remark,
    )


def note_result(tracked: TrackedRun, result: OptimizeResult) -> None:
    """Tell what was made: figures, time by stage, files, and what they are made from.

    Args:
        tracked: The run.
        result: What was made.
    """
    if not tracked.on:
        return
    values = result.to_dict()
    tracked.metrics({name: values[name] for name in _FIGURES})
    for number, (stage, seconds) in enumerate(result.seconds.items()):
        tracked.metrics({"stage_seconds": seconds, f"seconds/{stage}": seconds}, number)
    tracked.tags(
        {
            **lineage.of_artefact(result.artefact, result.plan),
            "kanna.gate": result.gate,
            "kanna.grade": result.grade,
        }
    )
    report = Path(result.report)
    for path in (report, report.with_suffix(".json"), Path(result.plan)):
        tracked.file(path)
    tracked.file(result.artefact, "artefact")

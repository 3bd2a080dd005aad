"""Tracking: what a run is asked for, measures and makes, told to a server that compares runs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanna import __version__
from kanna.errors import UsageError
from kanna.tracking import mlflow, servers, trackio
from kanna.tracking.session import FAILED, FINISHED, KILLED, Link, TrackedRun

__all__ = ["TrackRequest", "TrackedRun", "following"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackRequest:
    """Whom to tell.

    Attributes:
        server: Its address, or `trackio`; None: nobody.
        experiment: Where the run belongs.
        weights: Whether weights are sent, too.
    """

    server: str | None = None
    experiment: str | None = None
    weights: bool = False

    def __post_init__(self) -> None:
        if self.server is None and (self.experiment is not None or self.weights):
            raise UsageError(
                "nothing is tracked without a server", expected=f"--track {servers.TRACKERS}"
            )


@contextmanager
def following(
    request: TrackRequest,
    verb: str,
    name: str,
    *,
    unsent: Path,
    parameters: Mapping[str, Any],
    remark: Callable[[str], None] | None,
) -> Generator[TrackedRun]:
    """A run that a server is told of, from its parameters to how it ended.

    Args:
        request: Which server.
        verb: What runs.
        name: What it makes.
        unsent: The file for what the server cannot be told when it is lost.
        parameters: What was asked for.
        remark: Is told when the server is lost; None: a warning of Python.

    Raises:
        KannaError: The server cannot be used; nothing has been started.
    """
    if request.server is None:
        yield TrackedRun(name=name)
        return
    title = f"{verb} {name}"
    tracker = trackio if trackio.is_trackio(request.server) else mlflow
    backend = tracker.begin(request.server, request.experiment, title)
    link = Link(
        server=servers.shown(request.server),
        unsent=unsent,
        weights=request.weights,
        remark=remark or _warn,
    )
    run = TrackedRun(name=title, link=link, backend=backend)
    run.tags({"kanna.version": __version__, "kanna.verb": verb})
    run.parameters(parameters)
    try:
        yield run
    except Exception:
        run.end(FAILED)
        raise
    except BaseException:  # Ctrl-C, SIGTERM
        run.end(KILLED)
        raise
    run.end(FINISHED)


def _warn(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=2)

"""Components of the kind `tasks`."""

from __future__ import annotations

from collections.abc import Iterator

from kanna import tasks
from kanna._util import plugins
from kanna.catalog.base import Component, Kind, of_module


def _find() -> Iterator[Component]:
    for name in tasks.names():
        task = tasks.get(name)
        yield of_module(
            "tasks",
            name,
            plugins.module(tasks.__name__, name.replace("-", "_")),
            "TASK",
            summary=task.summary,
            facts={
                "needs a chat template": task.needs_chat,
                "form": f"{name}:{task.argument}" if task.argument else name,
            },
        )


KIND = Kind(
    summary="Tasks: what a model must still be able to do",
    about="Named by `--tasks` of `kanna evaluate`.",
    find=_find,
)

"""A run that is tracked as long as its server answers, and that goes on when it does not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kanna.escaping import one_line
from kanna.tracking.base import FAILED, FINISHED, KILLED, Point, RunBackend

__all__ = ["FAILED", "FINISHED", "KILLED", "Link", "TrackedRun"]

_ODD = re.compile(r"[^\w\-. /:]")
_LONGEST = 5000
"""Letters of a value; MLflow takes 6,000."""
_REPORTS = frozenset({".json", ".html", ".md", ".yaml", ".yml"})
_LARGEST = 64 << 20


@dataclass(slots=True, kw_only=True)
class Link:
    """What the runs of a session share.

    Attributes:
        server: Its address, as people may read it.
        unsent: Where lines go that the server does not take any more.
        weights: Whether weights are sent, too.
        remark: Is told once when the server is lost.
        lost: Why it is; empty as long as it answers.
    """

    server: str
    unsent: Path
    weights: bool
    remark: Callable[[str], None]
    lost: str = ""

    def lose(self, error: Exception) -> None:
        """Note that the server does not answer any more."""
        lines = str(error).strip().splitlines()
        self.lost = one_line(lines[0] if lines else type(error).__name__)[:200]
        self.remark(
            f"the tracking server {self.server} is lost: {self.lost}. The work goes on; what it "
            f"would have been told is in {self.unsent}"
        )


@dataclass(slots=True, kw_only=True)
class TrackedRun:
    """A run that is told to a server; nothing that its server does ends the work.

    Attributes:
        name: For people.
        link: Shared with runs above and below.
        backend: The run at the server; None: nobody is told, or the server was lost before it.
    """

    name: str
    link: Link | None = None
    backend: RunBackend | None = None
    _noted: set[str] = field(default_factory=set[str])

    @property
    def on(self) -> bool:
        """Whether anybody is told."""
        return self.link is not None

    def once(self, name: str) -> bool:
        """Whether it is the first time that this is asked for a name."""
        first = name not in self._noted
        self._noted.add(name)
        return first

    def parameters(self, values: Mapping[str, Any]) -> None:
        """What was asked for; values that are None are left out."""
        given = {_key(k): _text(v) for k, v in values.items() if v is not None}
        self._send("parameters", given, lambda run: run.parameters(given))

    def metrics(self, values: Mapping[str, Any], step: int = 0) -> None:
        """What was measured at a step: the numbers among the values."""
        if numbers := _numbers(values):
            sent: dict[str, Any] = {"step": step, **numbers}
            self._send("metrics", sent, lambda run: run.metrics([(step, numbers)]))

    def curve(self, history: object) -> None:
        """Metrics by step, from a list of objects with a `step` each; anything else is none."""
        points: list[Point] = []
        for point in history if isinstance(history, list) else []:  # pyright: ignore[reportUnknownVariableType]
            if isinstance(point, Mapping) and isinstance(point.get("step"), int):  # pyright: ignore[reportUnknownMemberType]
                values = {str(k): v for k, v in point.items() if k != "step"}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
                if numbers := _numbers(values):
                    points.append((point["step"], numbers))  # pyright: ignore[reportUnknownArgumentType]
        if points:
            sent = {"points": [{"step": step, **numbers} for step, numbers in points]}
            self._send("curve", sent, lambda run: run.metrics(points))

    def tags(self, values: Mapping[str, Any]) -> None:
        """What it was made from, and by what; values that are None are left out."""
        given = {_key(k): _text(v) for k, v in values.items() if v is not None}
        self._send("tags", given, lambda run: run.tags(given))

    def file(self, path: str | Path | None, folder: str = "") -> None:
        """A report, plan or card; weights only where they are wanted, and nothing else ever."""
        if self.link is None or not path:
            return
        one = Path(path)
        for file in sorted(one.rglob("*")) if one.is_dir() else [one]:
            report = file.suffix in _REPORTS and file.is_file() and file.stat().st_size < _LARGEST
            if file.is_file() and (report or self.link.weights and file.suffix in WEIGHTS):
                inside = file.relative_to(one).parent.as_posix() if one.is_dir() else "."
                place = "/".join(part for part in (folder, inside) if part not in ("", "."))
                self._send("file", {"path": str(file), "folder": place}, _filed(file, place))

    def child(self, name: str) -> TrackedRun:
        """A run below this one."""
        made: list[RunBackend] = []
        self._send("child", {"name": name}, lambda run: made.append(run.child(name)))
        return TrackedRun(name=name, link=self.link, backend=made[0] if made else None)

    def end(self, status: str = FINISHED) -> None:
        """How it ended."""
        self._send("end", {"status": status}, lambda run: run.end(status))

    def _send(
        self, what: str, values: Mapping[str, Any], call: Callable[[RunBackend], object]
    ) -> None:
        if self.link is None or not values:
            return
        if self.backend is not None and not self.link.lost:
            try:
                call(self.backend)
                return
            except Exception as error:  # whatever its library raises: the work is worth more
                self.link.lose(error)
        line = json.dumps({"run": self.name, "call": what, "values": values}, sort_keys=True)
        try:
            with self.link.unsent.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")
        except OSError:
            pass  # said already: the server is lost


WEIGHTS = frozenset({".gguf", ".safetensors", ".onnx", ".data", ".npz"})
"""How names of files with weights end."""


def _filed(path: Path, folder: str) -> Callable[[RunBackend], object]:
    return lambda run: run.file(path, folder)


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {
        _key(k): float(v)
        for k, v in values.items()
        if isinstance(v, int | float) and not isinstance(v, bool)
    }


def _key(name: str) -> str:
    return _ODD.sub("_", name)[:240]


def _text(value: Any) -> str:
    plain = isinstance(value, str | int | float | bool | Path)
    text = str(value) if plain else json.dumps(value, default=str, sort_keys=True)
    return text[:_LONGEST]

"""What finished jobs left: the artefact, its figures, its files, and models to chat with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kanna.checks import gate_word
from kanna.errors import KannaError, MissingError, SourceError
from kanna.serving import engines
from kanna.serving.pool import ModelPool
from kanna.serving.problems import ApiError
from kanna.serving.settings import ModelSpec
from kanna.serving.studio import duration
from kanna.serving.studio.exports import call
from kanna.serving.studio.jobs import DONE, QUEUED, RUNNING, JobStore, StudioJob, read_object

_MOST_FILES = 200
# Options that decide how long a job takes.
_KIND = ("effort", "format", "presets", "verify", "windows", "tokens")
_REPORT = "report.html"


def artefact(job: StudioJob, result: Mapping[str, Any]) -> Path | None:
    """The file or folder that a job made to be used; None where nothing is recommended."""
    if job.verb == "convert":
        return Path(result["paths"][0])
    if job.verb == "optimize":
        return Path(result["artefact"])
    row = _recommended(result)
    return Path(row["path"]) if row and row.get("path") else None


def _recommended(result: Mapping[str, Any]) -> Mapping[str, Any] | None:
    name = (result.get("recommended") or {}).get("name")
    return next((row for row in result["rows"] if row["name"] == name), None)


def figures(job: StudioJob, result: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows of a result, the same for every verb; None where it was not measured."""
    of_verb = {"convert": _of_conversion, "optimize": _of_search, "compare": _of_comparison}
    return of_verb[job.verb](result)


def _of_conversion(result: Mapping[str, Any]) -> dict[str, Any]:
    gate: Mapping[str, Any] = result.get("verify") or {}
    return {
        "preset": result["preset"],
        "bytes": result["file_bytes"],
        "bits": result["bits_per_weight"],
        "gate": gate_word(gate.get("status")),
        "checks": gate.get("checks", []),
        "kl": None,
        "top1": None,
        "grade": None,
        "advice": result.get("advice"),
        "notes": result.get("notes", []),
    }


def _of_search(result: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "preset": "",
        "bytes": result["file_bytes"],
        "bits": result["bits_per_weight"],
        "gate": gate_word(result["gate"]),
        "checks": [],
        "kl": result["kl_mean"],
        "top1": result["top1"],
        "grade": result.get("grade"),
        "advice": result.get("advice"),
        "notes": result.get("notes", []),
    }


def _of_comparison(result: Mapping[str, Any]) -> dict[str, Any]:
    row: Mapping[str, Any] = _recommended(result) or {}
    return {
        "preset": row.get("name", ""),
        "bytes": row.get("file_bytes"),
        "bits": row.get("bits_per_weight"),
        "gate": gate_word(row.get("gate")),
        "checks": row.get("checks", []),
        "kl": row.get("kl_mean"),
        "top1": row.get("top1"),
        "grade": row.get("grade"),
        "advice": (result.get("recommended") or {}).get("why"),
        "notes": result.get("notes", []),
    }


def progress(state: Mapping[str, Any]) -> dict[str, Any]:
    """Progress of a job, with the seconds that are left of its stage."""
    done, total, seconds = state.get("done"), state.get("total"), state.get("seconds", 0.0)
    left = seconds * (total - done) / done if done and total and seconds else None
    return {**state, "seconds_left": None if left is None else max(0.0, left)}


class Outcomes:
    """What became of every job.

    Args:
        store: The jobs.
        pool: Gets every artefact that an engine runs, as a model to chat with.
    """

    def __init__(self, store: JobStore, pool: ModelPool) -> None:
        self.store, self.pool = store, pool
        self._models: dict[str, str] = {}
        self._originals: dict[str, str] = {}
        self._refusals: dict[str, str] = {}

    def describe(self, job: StudioJob) -> dict[str, Any]:
        """Everything the page shows of a job."""
        folder = self.store.folder(job)
        foreign = call(job)
        about: dict[str, Any] = {
            "id": job.id,
            "verb": job.verb,
            "source": job.source,
            "options": job.options,
            "state": job.state,
            "created": job.created,
            "started": job.started,
            "ended": job.ended,
            "error": job.error,
            "original_of": job.original_of,
            "output": foreign.out,
            "command": foreign.command(),
            "python": foreign.python(),
        }
        if job.state in (RUNNING, QUEUED):
            state = read_object(folder / "progress.json")
            left = duration.seconds_left(state, self._expected(job))
            about["progress"] = {**progress(state), "job_seconds_left": left}
        if job.state == DONE:
            about["result"] = self._result(job)
        return about

    def _expected(self, job: StudioJob) -> list[tuple[str, float]]:
        """Steps of a job like this one that succeeded last, else those that are usual."""
        key = [job.options.get(name) for name in _KIND]
        for other in reversed(self.store.jobs.values()):
            like = other.verb == job.verb and [other.options.get(n) for n in _KIND] == key
            if like and other.state == DONE:
                steps = duration.steps_of(read_object(self.store.folder(other) / "progress.json"))
                if steps:
                    return steps
        return duration.usual(job.verb, job.options)

    def _result(self, job: StudioJob) -> dict[str, Any]:
        outcome = read_object(self.store.folder(job) / "result.json")
        result: dict[str, Any] = outcome.get("result", {})
        path = artefact(job, result)
        files, report = self._files(job)
        return {
            **figures(job, result),
            "path": str(path) if path else None,
            "files": files,
            "report": report,
            "archive": f"/studio/archives/{job.ticket}" if path and path.is_dir() else None,
            "model": self._models.get(job.id),
            "no_model": self._refusals.get(job.id, ""),
        }

    def _files(self, job: StudioJob) -> tuple[list[dict[str, Any]], str | None]:
        """Files of the artefact, and the address of the report."""
        out, files, report = self.store.folder(job) / "out", list[dict[str, Any]](), None
        for path in sorted(out.rglob("*"))[:_MOST_FILES]:
            name = path.relative_to(out).as_posix()
            address = f"/studio/files/{job.ticket}/{name}"
            if path.name == _REPORT:
                report = address
            elif path.is_file() and not path.name.endswith(".partial"):
                files.append({"name": name, "bytes": path.stat().st_size, "address": address})
        return files, report

    def file(self, ticket: str, name: str) -> tuple[Path, bool]:
        """A file that a job made, and whether it is the report; raises ApiError 404."""
        for job in self.store.jobs.values():
            if job.ticket == ticket:
                out = (self.store.folder(job) / "out").resolve()
                path = (out / name).resolve()
                if path.is_relative_to(out) and path.is_file():
                    return path, path.name == _REPORT
        raise ApiError(404, "there is no such file", code="not_found")

    def folder(self, ticket: str) -> Path:
        """The folder that a job made as its result; raises ApiError 404."""
        for job in self.store.jobs.values():
            if job.ticket == ticket and job.state == DONE:
                out = (self.store.folder(job) / "out").resolve()
                path = artefact(job, read_object(out.parent / "result.json").get("result", {}))
                if path and path.is_dir() and path.resolve().is_relative_to(out):
                    return path.resolve()
        raise ApiError(404, "there is no such folder", code="not_found")

    # Models to chat with

    def register(self, job: StudioJob) -> None:
        """Let the gateway serve what a job made, if an engine runs it here."""
        outcome = read_object(self.store.folder(job) / "result.json")
        try:
            path = artefact(job, outcome.get("result", {}))
            if path is not None:
                self._models[job.id] = self._add(path, _file_name(path))
        except (KannaError, ApiError, OSError, KeyError) as error:
            message = error.found if isinstance(error, KannaError) else str(error)
            self._refusals[job.id] = message

    def register_all(self) -> None:
        """Serve what earlier jobs made."""
        for job in self.store.jobs.values():
            if job.state == DONE:
                self.register(job)

    def original(self, job: StudioJob) -> str | StudioJob:
        """The model that a job began from, to chat with.

        Returns:
            Its name, or the job that makes it: no engine runs a folder of safetensors, and what is
            nearest to it is a GGUF of 16 bits.

        Raises:
            ApiError: The job is not finished.
        """
        if job.state != DONE:
            raise ApiError(409, "this job is not finished", code="not_finished")
        if job.source in self._originals:
            return self._originals[job.source]
        path = Path(read_object(self.store.folder(job) / "result.json")["source"])
        try:
            name = self._add(path, f"{_file_name(path)} (original)")
            self._originals[job.source] = name
            return name
        except (SourceError, MissingError):
            pass  # no engine runs it here
        except KannaError as error:
            raise ApiError(400, error.found, code="cannot_serve", todo=error.todo) from None
        for other in reversed(self.store.jobs.values()):
            if other.original_of and other.source == job.source:
                if other.id in self._models:
                    return self._models[other.id]
                if other.active:
                    return other
        options = {"preset": "BF16"}
        return self.store.add("convert", job.source, options, original_of=job.id)

    def _add(self, path: Path, name: str) -> str:
        engines.for_artefact(path)  # raises for what none runs
        known = {model.spec.path: model.name for model in self.pool.models.values()}
        if path in known:
            return known[path]
        free, number = name, 2
        while free in known.values():
            free, number = f"{name} {number}", number + 1
        self.pool.add(ModelSpec(name=free, path=path))
        return free

    async def forget(self, job: StudioJob) -> None:
        """Stop serving what a job made."""
        if name := self._models.pop(job.id, None):
            await self.pool.remove(self.pool.find(name))


def _file_name(path: Path) -> str:
    return path.stem if path.is_file() else path.name

"""The self-test of a package: what the artefact answers, and the runner."""

from __future__ import annotations

import json
from pathlib import Path

from kanna import runtimes
from kanna.packaging.artefact import Artefact

RUNNER = "selftest.py"


def require_runtime(artefact: Artefact) -> None:
    """Raise MissingError where the runtime that answers the questions is not here."""
    runtime = runtimes.of(_location(artefact))
    if not runtime.available().ok:
        runtime.load()


def _location(artefact: Artefact) -> Path:
    """The file or the folder of an artefact."""
    place, path = next(iter(artefact.files.items()))
    inside = place.removeprefix(artefact.place).strip("/")
    return path.parents[inside.count("/")] if inside else path


def selftest_files(artefact: Artefact) -> dict[str, str]:
    """Texts of the self-test by their path in the package.

    Raises:
        MissingError: The runtime of the artefact is not installed here.
    """
    # Of the verbs of this package only one needs them, and they bring the whole gate.
    from kanna.self_testing import made, runner

    values = made(_location(artefact), "")
    values |= {"artefact": artefact.place, "files": dict(sorted(artefact.hashes.items()))}
    return {
        RUNNER: Path(runner.__file__).read_text(encoding="utf-8"),
        runner.NAME: json.dumps(values, indent=1) + "\n",
    }

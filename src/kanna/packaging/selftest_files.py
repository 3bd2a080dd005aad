"""The self-test of a package: what the artefact answers, and the runner."""

from __future__ import annotations

import json
from pathlib import Path

from kanna.packaging.artefact import Artefact
from kanna.self_testing import made, runner

RUNNER = "selftest.py"


def selftest_files(artefact: Artefact) -> dict[str, str]:
    """Texts of the self-test by their path in the package.

    Raises:
        MissingError: The runtime of the artefact is not installed here.
    """
    place, path = next(iter(artefact.files.items()))
    inside = place.removeprefix(artefact.place).strip("/")
    location = path.parents[inside.count("/")] if inside else path
    values = made(location, "")
    values |= {"artefact": artefact.place, "files": dict(sorted(artefact.hashes.items()))}
    return {
        RUNNER: Path(runner.__file__).read_text(encoding="utf-8"),
        runner.NAME: json.dumps(values, indent=1) + "\n",
    }

"""Resolve and pin the packages that a service needs, with their hashes, for every Linux and Python.

`make lock` runs it. uv resolves; what is pinned already stays unless it no longer fits, and
`--upgrade` takes the newest of everything.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "src" / "kanna" / "packaging" / "locks"
SETS = {"serve": "3.10", "serve-onnx": "3.11", "serve-mlx": "3.11", "serve-openvino": "3.11"}
"""Sets of extras that models are served with, and the oldest Python that all of it supports."""


def main() -> int:
    """Write the locks; return the exit code of the first resolution that failed."""
    FOLDER.mkdir(exist_ok=True)
    for name, python in SETS.items():
        # Only the lines of the packages: uv takes the oldest Python from a project file.
        project = FOLDER.parent / f"{name}.in"
        command = [sys.executable, "-m", "uv", "pip", "compile", str(project), "--universal"]
        command += ["--python-version", python, "--generate-hashes", "--no-header"]
        command += ["--no-annotate", "--quiet", *sys.argv[1:], "-o", str(FOLDER / f"{name}.txt")]
        try:
            project.write_text("\n".join(_requirements(name)) + "\n", encoding="utf-8")
            if code := subprocess.run(command, check=False).returncode:
                return code
        finally:
            project.unlink(missing_ok=True)
    return 0


def _requirements(name: str) -> list[str]:
    """What kanna itself and the extras in a set's name ask for."""
    from kanna._util.distribution import read_project

    project = read_project(ROOT)
    extras = project["optional-dependencies"]
    return [*project["dependencies"], *(line for e in name.split("-") for line in extras[e])]


if __name__ == "__main__":
    sys.exit(main())

"""The examples run, on a tiny model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
from helpers import tiny_models  # noqa: E402

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples") / "tiny"
    tiny_models.make("llama", folder)
    return folder


def environment(model: Path) -> dict[str, str]:
    path = os.pathsep.join(p for p in sys.path if p)
    return os.environ | {"EXAMPLE_MODEL": str(model), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda p: p.name)
def test_scripts_run(script: Path, model: Path, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, str(script), str(model)],
        cwd=tmp_path,
        env=environment(model),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0 and run.stdout, run.stdout + run.stderr


@pytest.mark.parametrize("notebook", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda p: p.name)
def test_notebooks_run_and_show_their_results(
    notebook: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    for name, value in environment(model).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    opened: Any = nbformat.read(notebook, as_version=4)
    assert not any(cell.get("outputs") for cell in opened.cells), "outputs are not committed"
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(opened, timeout=120, resources=resources).execute()
    shown = [
        output["data"]
        for cell in opened.cells
        for output in cell.get("outputs", ())
        if output["output_type"] == "execute_result"
    ]
    assert len(shown) == 4 and all("<table>" in data["text/html"] for data in shown)
    assert all(data["text/plain"].startswith("<") for data in shown), "a short form, too"


def test_every_example_is_listed() -> None:
    listed = (EXAMPLES / "README.md").read_text()
    assert all(p.name in listed for p in EXAMPLES.iterdir() if p.suffix in (".py", ".ipynb"))

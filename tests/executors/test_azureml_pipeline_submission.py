"""Pipelines that are submitted to Azure ML, by Azure's SDK, against a stub of it on loopback.

`pip install '.[azureml]'`, then
`python -m pytest -m slow tests/executors/test_azureml_pipeline_submission.py`.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers.azureml_stub import NAMES, AzureStub

import kanna
from kanna.cli.main import cli

OPTIONS = [*NAMES, "pipeline=true"]
pytestmark = pytest.mark.slow  # the SDK loads for seconds


def test_a_pipeline_is_submitted_followed_and_fetched(
    recipe: Path, tmp_path: Path, stub: AzureStub, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.states = ["NotStarted", "Running", "Running", "Completed"]
    stub.output = {"manifest.json": b"{}", "steps/small-Q8_0/small-Q8_0.gguf": bytes(range(256))}
    told: list[str] = []
    options = [*OPTIONS, "fetch=true", "compute=small"]
    result = kanna.run(recipe, tmp_path / "jobs", on="azureml", on_set=options, remark=told.append)
    assert capsys.readouterr() == ("", ""), "what the SDK says of itself is not for users"
    job = result.job
    assert job is not None and job.ok and job.state == "Completed" and result.exit_code == 0
    sent = stub.assets[f"jobs/{job.name}"]["properties"]
    assert sent["jobType"] == "Pipeline"
    nodes = sent["jobs"]
    assert list(nodes) == ["small_q8_0", "about_q8_0", "small_q4_0", "about_q4_0", "everything"]
    commands = {
        name: stub.assets["/".join(node["componentId"].split("/")[-4:])]["properties"][
            "componentSpec"
        ]["command"]
        for name, node in nodes.items()
    }
    assert "--only small-Q4_0" in commands["small_q4_0"]
    assert commands["about_q8_0"].endswith("--only about-Q8_0 --made ${{inputs.made_small_q8_0}}")
    given = nodes["about_q8_0"]["inputs"]["made_small_q8_0"]
    assert "${{parent.jobs.small_q8_0.outputs.run}}" in json.dumps(given)
    assert recipe.read_bytes() in stub.blobs.values()
    for name in nodes:
        states = [line for line in told if line.startswith(f"{name}: ")]
        assert states[-1] == f"{name}: Completed", "its end is told"
    assert told.index("small_q8_0: Running") < told.index("about_q8_0: Running")
    assert job.folder == str(tmp_path / "jobs" / job.name) and result.commands == []
    fetched = {
        path.relative_to(job.folder).as_posix(): path.read_bytes()
        for path in Path(job.folder).rglob("*")
        if path.is_file()
    }
    assert fetched == stub.output
    assert not [path for path in (tmp_path / "jobs").iterdir() if ".partial" in path.name]


def test_steps_that_failed_are_named(recipe: Path, tmp_path: Path, stub: AzureStub) -> None:
    stub.states, stub.broken = ["Running", "Running", "Failed"], {"small_q4_0"}
    stub.error = "Pipeline has some failed steps. See child run or execution logs."
    words = ["--json", "run", str(recipe), "-o", str(tmp_path / "jobs"), "--on", "azureml"]
    words += [word for one in OPTIONS for word in ("--on-set", one)]
    shown = CliRunner().invoke(cli, words)
    assert shown.exit_code == 1, shown.output
    job = json.loads(shown.stdout)["job"]
    assert job["state"] == "Failed" and job["why"] == f"small_q4_0 failed. {stub.error}"
    assert [line.split()[5] for line in job["commands"]] == [job["name"], f"{job['name']}-2"]
    assert "small_q4_0: Failed" in shown.stderr and "about_q4_0" not in shown.stderr


def test_an_output_that_is_missing_is_an_error(
    recipe: Path, tmp_path: Path, stub: AzureStub
) -> None:
    words = ["run", str(recipe), "-o", str(tmp_path / "jobs"), "--on", "azureml"]
    words += [word for one in (*OPTIONS, "fetch=true") for word in ("--on-set", one)]
    shown = CliRunner().invoke(cli, words)
    assert shown.exit_code == 1 and "has left no output" in shown.stderr
    assert not [path for path in (tmp_path / "jobs").iterdir() if path.name.startswith("kanna-")]


@pytest.mark.parametrize("line", ["is submitted to", "small_q8_0: Running"])
def test_ctrl_c_cancels_the_pipeline(
    recipe: Path, tmp_path: Path, stub: AzureStub, line: str
) -> None:
    told: list[str] = []

    def remark(text: str) -> None:
        told.append(text)
        if line in text:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        kanna.run(recipe, tmp_path / "jobs", on="azureml", on_set=OPTIONS, remark=remark)
    assert told[-1].endswith("is being cancelled") and stub.states[-1] == "Canceled"

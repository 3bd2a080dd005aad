"""Jobs that are submitted to Azure ML, by Azure's SDK, against a stub of the service on loopback.

`pip install '.[azureml]'`, then
`python -m pytest -m slow tests/executors/test_azureml_submission.py`.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers.azureml_stub import NAMES, AzureStub

import kanna
from kanna._util import extras
from kanna.cli.main import cli
from kanna.errors import MissingError, RefusedError, SourceError, UsageError

slow = pytest.mark.slow  # the SDK loads for seconds


@slow
def test_a_job_is_submitted_and_followed(
    recipe: Path, tmp_path: Path, stub: AzureStub, capsys: pytest.CaptureFixture[str]
) -> None:
    # Whoever is told may print, while the SDK's own printing is heard.
    result = kanna.run(recipe, tmp_path / "jobs", on="azureml", on_set=NAMES, remark=print)
    told = capsys.readouterr().out.splitlines()
    job = result.job
    assert job is not None and job.ok and job.state == "Completed" and result.exit_code == 0
    order = [f"{job.name}: Running", "convert: Q8_0", "2 steps run", f"{job.name}: Completed"]
    assert [line for line in told if line in order] == order
    sent = stub.assets[f"jobs/{job.name}"]["properties"]
    assert sent["command"].startswith("kanna run presets.yaml -o ${{outputs.run}}")
    assert "/data/kanna-presets-model/versions/" in sent["inputs"]["model"]["uri"]
    model = (recipe.parent / "model/tiny.gguf").read_bytes()
    assert [name for name, data in stub.blobs.items() if data == model]
    assert recipe.read_bytes() in stub.blobs.values()
    assert f"az ml job download --name {job.name} --output-name run -g edge" in result.commands[0]
    again = kanna.run(recipe, tmp_path / "jobs", on="azureml", on_set=NAMES, remark=print)
    assert again.ok and again.job is not None and again.job.name != job.name
    assert stub.calls["PUT environments"] == stub.calls["PUT data"] == 1
    assert stub.calls["PUT jobs"] == 2


@slow
def test_a_job_that_fails_ends_the_run_with_its_log(
    recipe: Path, tmp_path: Path, stub: AzureStub
) -> None:
    stub.states = ["Queued", "Running", "Failed"]
    stub.log, stub.error = "step small: disk full\n", "Execution failed with exit code 1"
    words = ["run", str(recipe), "-o", str(tmp_path / "jobs"), "--on", "azureml"]
    words += [word for one in NAMES for word in ("--on-set", one)]
    shown = CliRunner().invoke(cli, ["--json", *words])
    assert shown.exit_code == 1, shown.output
    job = json.loads(shown.stdout)["job"]
    assert job["state"] == "Failed" and job["why"] == stub.error and not job["ok"]
    assert "step small: disk full" in job["log"]
    assert f"{job['name']}: Failed" in shown.stderr and "\x1b" not in shown.stderr
    quiet = CliRunner().invoke(cli, ["--quiet", *words])
    assert quiet.exit_code == 1 and quiet.stderr == ""
    assert "step small: disk full" in quiet.stdout and stub.error in quiet.stdout
    assert "az ml job download" in quiet.stdout and "--all" in quiet.stdout


@slow
@pytest.mark.parametrize("line", ["Running", "convert: Q8_0"])
def test_ctrl_c_cancels_the_job(recipe: Path, tmp_path: Path, stub: AzureStub, line: str) -> None:
    told: list[str] = []

    def remark(text: str) -> None:
        told.append(text)
        if text.endswith(line):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        kanna.run(recipe, tmp_path / "jobs", on="azureml", on_set=NAMES, remark=remark)
    assert told[-1].endswith("is being cancelled") and stub.states[-1] == "Canceled"


@slow
def test_a_job_that_cannot_be_cancelled_is_named(
    recipe: Path, tmp_path: Path, stub: AzureStub
) -> None:
    told: list[str] = []

    def remark(text: str) -> None:
        told.append(text)
        if text == "2 steps run":
            stub.unreachable = True
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        kanna.run(recipe, tmp_path / "jobs", on="azureml", on_set=NAMES, remark=remark)
    assert "may still run" in told[-1] and "az ml job cancel --name kanna-presets-" in told[-1]


@slow
@pytest.mark.parametrize(
    ("code", "text", "todo"),
    [
        ("QuotaExceeded", "Not enough quota available for STANDARD_D8S_V5", "more quota"),
        ("AuthorizationFailed", "The client has no authorization to write", "Data Scientist"),
    ],
)
def test_a_refusal_says_what_to_do(
    recipe: Path, tmp_path: Path, stub: AzureStub, code: str, text: str, todo: str
) -> None:
    stub.refusal = 403, {"error": {"code": code, "message": text}}
    with pytest.raises(SourceError, match=text) as caught:
        kanna.run(recipe, tmp_path / "jobs", on="azureml", on_set=NAMES)
    assert code in caught.value.found and todo in caught.value.todo


@slow
def test_no_workspace_of_that_name(recipe: Path, tmp_path: Path, stub: AzureStub) -> None:
    with pytest.raises(SourceError, match="workspace other in the resource group edge"):
        kanna.run(recipe, tmp_path / "jobs", on="azureml", on_set=[*NAMES[:-1], "workspace=other"])
    assert not (tmp_path / "jobs").exists() and not stub.assets


@slow
def test_no_credentials(
    recipe: Path, tmp_path: Path, stub: AzureStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    import azure.identity._credentials.default as real

    for name in [name for name in os.environ if name.startswith(("AZURE_", "MSI_", "IDENTITY_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("azure.identity.DefaultAzureCredential", real.DefaultAzureCredential)
    with pytest.raises(SourceError, match="EnvironmentCredential: .*AzureCliCredential") as caught:
        kanna.run(recipe, tmp_path / "jobs", on="azureml", on_set=NAMES)
    assert "az login" in caught.value.todo and not (tmp_path / "jobs").exists()


def test_nothing_is_written_where_the_sdk_is_missing(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(name: str) -> bool:
        return not name.startswith("azure")

    monkeypatch.setattr(extras, "_found", found)
    with pytest.raises(MissingError, match=r"azure\.ai\.ml, azure\.identity"):
        kanna.run(recipe, tmp_path / "jobs", on="azureml", on_set=NAMES)
    assert not (tmp_path / "jobs").exists()
    dry = kanna.run(recipe, tmp_path / "jobs", on="azureml", on_set=NAMES, dry_run=True)
    assert dry.dry_run and dry.job is None and "--subscription 11111111" in dry.commands[-1]


def test_a_subscription_alone_names_no_workspace(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="names no workspace"):
        kanna.run(recipe, tmp_path / "jobs", on="azureml", on_set=NAMES[:2])


def test_nothing_is_submitted_offline(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(_: str) -> bool:
        return True

    monkeypatch.setattr(extras, "_found", found)
    monkeypatch.setenv("KANNA_OFFLINE", "1")
    with pytest.raises(RefusedError, match="workspace models"):
        kanna.run(recipe, tmp_path / "jobs", on="azureml", on_set=NAMES)

"""Runs and promotions at a real `mlflow server`, and what happens when it is not there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers import mlflow_servers, needs, tiny_models
from helpers.mlflow_servers import RunningServer

import kanna
from kanna import tracking
from kanna._util.digest import sha256
from kanna.cli.main import cli
from kanna.errors import SourceError, UsageError
from kanna.tracking import TrackRequest

needs.package("mlflow")
pytest.importorskip("flask_cors")
RECIPE = """
name: two presets
variables: {model: SRC}
steps:
  small:
    verb: convert
    for: {preset: [Q8_0, Q4_0]}
    with: {source: "${model}", preset: "${preset}"}
  broken:
    verb: inspect
    with: {source: "${model}/README.md"}
"""


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Generator[RunningServer]:
    with mlflow_servers.running(tmp_path_factory.mktemp("mlflow")) as running:
        yield running


@pytest.fixture
def server(process: RunningServer) -> str:
    return process.address


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source, a file of it, the report of its gate, and a text."""
    folder = tmp_path_factory.mktemp("promoted")
    tiny_models.make("llama", folder / "source")
    (folder / "source" / "README.md").write_text("---\nlicense: mit\n---\n")
    kanna.convert(folder / "source", folder / "a.gguf", preset="Q8_0")
    kanna.verify(folder / "source", folder / "a.gguf", gate=folder / "a.gguf.gate.json")
    (folder / "text.txt").write_text("A quick fox met an old dog in the small wood. " * 200)
    return folder


def client(server: str) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=server, registry_uri=server)


def runs(server: str, experiment: str) -> dict[str, Any]:
    """Runs by name."""
    asked = client(server)
    number = asked.get_experiment_by_name(experiment).experiment_id
    return {run.info.run_name: run for run in asked.search_runs([number])}


def test_a_recipe_is_a_run_with_one_below_it_for_every_step(
    server: str, home: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.replace("SRC", str(home / "source")))
    command = ["run", str(recipe), "-o", str(tmp_path / "out"), "--json"]
    ran = CliRunner().invoke(cli, [*command, "--track", server, "--experiment", "recipes"])
    assert ran.exit_code == 1 and json.loads(ran.stdout)["failed"] == 1, ran.output
    every = runs(server, "recipes")
    parent = every["run two presets"]
    assert parent.data.params["model"] == str(home / "source")
    assert parent.data.tags["kanna.version"] == kanna.__version__
    assert parent.info.status == "FINISHED"
    steps = {name: run for name, run in every.items() if name != "run two presets"}
    assert {run.data.tags["mlflow.parentRunId"] for run in steps.values()} == {parent.info.run_id}
    assert {run.info.status for run in steps.values()} == {"FINISHED", "FAILED"}
    one = next(run for run in steps.values() if run.data.params.get("preset") == "Q8_0")
    made = tmp_path / "out" / one.data.tags["kanna.artefact"]
    assert one.data.tags["kanna.artefact.sha256"] == sha256(made)
    assert "model.safetensors" in one.data.tags["kanna.source.sha256"]
    assert one.data.metrics["file_bytes"] == made.stat().st_size
    asked = client(server)
    history = asked.get_metric_history(parent.info.run_id, "file_bytes")
    assert len({point.step for point in history}) == len(history) == 2
    files = {file.path for file in asked.list_artifacts(parent.info.run_id)}
    assert files == {"manifest.json", "report.html"}
    # Weights by hash and path alone: nobody asked for them to be sent.
    assert "artefact" not in {file.path for file in asked.list_artifacts(one.info.run_id)}


def test_a_curve_has_its_steps(server: str, tmp_path: Path) -> None:
    request = TrackRequest(server=server, experiment="curves")
    history = [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.0}, {"step": 2, "held_out_loss": 3}]
    with tracking.following(
        request, "adapt", "a", unsent=tmp_path / "u", parameters={"rank": 4}, remark=None
    ) as run:
        run.curve(history)
    told = runs(server, "curves")["adapt a"]
    points = client(server).get_metric_history(told.info.run_id, "loss")
    assert [(point.step, point.value) for point in points] == [(1, 2.5), (2, 2.0)]
    assert told.data.params == {"rank": "4"} and not (tmp_path / "u").exists()


def test_a_server_that_is_down_is_said_before_anything_runs(home: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.replace("SRC", str(home / "source")))
    with pytest.raises(SourceError, match="does not answer") as raised:
        kanna.run(recipe, tmp_path / "out", track="http://me:secret@127.0.0.1:9")
    assert "secret" not in str(raised.value) and not (tmp_path / "out").exists()
    for wrong in ("databricks", "ftp://host", "runs.db"):
        with pytest.raises(UsageError, match="no tracking server"):
            kanna.run(recipe, tmp_path / "out", track=wrong)
    with pytest.raises(UsageError, match="without a server"):
        kanna.run(recipe, tmp_path / "out", experiment="e")


def promoted(server: str, artefact: Path, home: Path, *more: str) -> tuple[int, dict[str, Any]]:
    command = ["promote", str(artefact), "--track", server, "--name", "tiny", "--json"]
    command += ["--text", str(home / "text.txt"), "--windows", "1", "--reference"]
    ran = CliRunner().invoke(cli, [*command, str(home / "source"), *more])
    return ran.exit_code, json.loads(ran.stdout)


def test_candidate_then_production(server: str, home: Path) -> None:
    to = ["--to", "production", "--track-weights", "--at-least", "poor"]
    code, refused = promoted(server, home / "a.gguf", home, *to)
    assert code == 1 and refused["version"] is None
    assert [c["name"] for c in refused["checks"] if not c["ok"]] == ["candidate"]
    code, result = promoted(server, home / "a.gguf", home, "--allow", "mit", "--track-weights")
    assert (code, result["version"], result["grade"]) == (0, "1", "close"), result
    code, result = promoted(server, home / "a.gguf", home, *to)
    assert (code, result["version"]) == (0, "1"), result
    asked = client(server)
    for alias in ("candidate", "production"):
        version = asked.get_model_version_by_alias("tiny", alias)
        assert version.version == "1" or version.version == 1
        assert version.tags["kanna.artefact.sha256"] == sha256(home / "a.gguf")
    files = asked.list_artifacts(version.run_id, "model")
    assert [(file.path, file.file_size) for file in files] == [
        ("model/a.gguf", (home / "a.gguf").stat().st_size)
    ]


def test_what_is_missing_is_named_and_nothing_registered(
    server: str, home: Path, tmp_path: Path
) -> None:
    shutil.copy(home / "a.gguf", tmp_path / "b.gguf")
    code, result = promoted(server, tmp_path / "b.gguf", home, "--track-weights")
    missing = [check for check in result["checks"] if not check["ok"]]
    assert code == 1 and [check["name"] for check in missing] == ["gate"]
    code, result = promoted(
        server, home / "a.gguf", home, "--track-weights", "--allow", "apache-2.0"
    )
    assert code == 1 and "licence" in [c["name"] for c in result["checks"] if not c["ok"]]
    code, result = promoted(server, home / "a.gguf", home)
    assert code == 2 and "kanna push" in json.dumps(result)  # the server cannot read that path


def test_what_is_not_close_is_refused(server: str, home: Path, tmp_path: Path) -> None:
    far = tmp_path / "far.gguf"
    kanna.convert(home / "source", far, preset="Q2_K")
    kanna.verify(home / "source", far, gate=tmp_path / "far.gguf.gate.json")
    grades = ["--at-least", "near-identical", "--track-weights"]
    code, result = promoted(server, far, home, *grades)
    assert code == 1 and [c["name"] for c in result["checks"] if not c["ok"]] == ["closeness"]
    assert len(client(server).search_model_versions("name='tiny'")) == 1


def test_a_server_that_is_lost_ends_no_work(process: RunningServer, tmp_path: Path) -> None:
    remarks: list[str] = []
    with tracking.following(
        TrackRequest(server=process.address),
        "adapt",
        "b",
        unsent=tmp_path / "unsent.jsonl",
        parameters={"rank": 4},
        remark=remarks.append,
    ) as run:
        process.stop()  # the last test of this file
        run.metrics({"loss": 1.5}, 7)
        run.child("below").metrics({"kl": 0.5})
    assert len(remarks) == 1 and process.address in remarks[0] and "unsent.jsonl" in remarks[0]
    lines = [json.loads(line) for line in (tmp_path / "unsent.jsonl").read_text().splitlines()]
    assert lines[0] == {"run": "adapt b", "call": "metrics", "values": {"step": 7, "loss": 1.5}}
    assert [line["call"] for line in lines] == ["metrics", "child", "metrics", "end"]

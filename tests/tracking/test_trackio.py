"""Runs in trackio's own files, read back by trackio; nothing of them leaves the machine."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers import needs, tiny_models, watching

import kanna
from kanna import tracking
from kanna._util import telemetry
from kanna._util.digest import sha256
from kanna.cli.main import cli
from kanna.errors import SourceError, UsageError
from kanna.tracking import TrackRequest

needs.package("trackio")
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
REMOTE = {
    "TRACKIO_SPACE_ID": "someone/board",
    "TRACKIO_SERVER_URL": "http://203.0.113.1:1/?write_token=t",
    "TRACKIO_BUCKET_ID": "someone/bucket",
    "TRACKIO_WEBHOOK_URL": "http://203.0.113.1:1/hook",
    "HF_TOKEN": "hf_" + "a" * 34,
}
"""By which trackio itself would tell others."""


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    """The folder of trackio, which reads it when it is loaded."""
    folder = tmp_path_factory.mktemp("trackio")
    with pytest.MonkeyPatch.context() as patch:
        for name in REMOTE:
            patch.delenv(name, raising=False)
        patch.setenv("TRACKIO_DIR", str(folder))
        for name in [name for name in sys.modules if name.partition(".")[0] == "trackio"]:
            patch.delitem(sys.modules, name)
        yield folder
        for name in [name for name in sys.modules if name.partition(".")[0] == "trackio"]:
            del sys.modules[name]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of two steps that work and one that does not."""
    folder = tmp_path_factory.mktemp("recipe")
    tiny_models.make("llama", folder / "source")
    (folder / "source" / "README.md").write_text("---\nlicense: mit\n---\n")
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.replace("SRC", str(folder / "source")))
    return path


def runs(project: str) -> dict[str, Any]:
    """Runs by name, as trackio lists them."""
    from trackio import Api  # pyright: ignore[reportMissingImports]

    return {run.name: run for run in Api().runs(project)}


def logs(project: str, run: Any) -> list[tuple[int, dict[str, Any]]]:
    """What trackio has of a run by step."""
    from trackio.sqlite_storage import SQLiteStorage  # pyright: ignore[reportMissingImports]

    rows = SQLiteStorage.get_logs(project, run.name, run_id=run.id)
    return [
        (row["step"], {k: v for k, v in row.items() if k not in ("step", "timestamp")})
        for row in rows
    ]


def files(project: str, run: Any) -> dict[str, str]:
    """Hashes of the files of a run, by their names in it."""
    from trackio.sqlite_storage import SQLiteStorage  # pyright: ignore[reportMissingImports]

    every = SQLiteStorage.get_run_artifacts(project, run.name, run.id)["output"]
    manifests = [
        SQLiteStorage.get_artifact_manifest(project, a["name"], f"v{a['version']}") for a in every
    ]
    return {entry["path"]: entry["digest"] for m in manifests for entry in m["manifest"]}


def test_a_recipe_is_a_group_of_runs(board: Path, recipe: Path, tmp_path: Path) -> None:
    command = ["run", str(recipe), "-o", str(tmp_path / "out"), "--json"]
    ran = CliRunner().invoke(cli, [*command, "--track", "trackio:recipes"])
    assert ran.exit_code == 1 and json.loads(ran.stdout)["failed"] == 1, ran.output
    assert (board / "recipes.db").is_file()
    every = runs("recipes")
    parent = every.pop("run two presets")
    assert parent.config["model"] == str(recipe.parent / "source")
    assert parent.config["kanna.version"] == kanna.__version__
    assert parent.config["kanna.status"] == "FINISHED"
    assert {run.config["_Group"] for run in every.values()} == {"run two presets"}
    assert {run.config["kanna.parent"] for run in every.values()} == {parent.id}
    assert sorted(r.config["kanna.status"] for r in every.values()) == [
        "FAILED",
        "FINISHED",
        "FINISHED",
    ]
    one = next(run for run in every.values() if run.config.get("preset") == "Q8_0")
    made = tmp_path / "out" / one.config["kanna.artefact"]
    assert one.config["kanna.artefact.sha256"] == sha256(made)
    told = [values["file_bytes"] for _, values in logs("recipes", one) if "file_bytes" in values]
    assert told == [made.stat().st_size]
    steps = [step for step, values in logs("recipes", parent) if "file_bytes" in values]
    assert len(set(steps)) == len(steps) == 2
    manifest = tmp_path / "out" / "manifest.json"
    kept = files("recipes", parent)
    assert set(kept) == {"manifest.json", "report.html"}
    assert kept["manifest.json"] == sha256(manifest)
    # Weights by hash and path alone: nobody asked for them to be copied.
    assert not [name for name in files("recipes", one) if name.endswith(".gguf")]


def test_parameters_curve_and_end(board: Path, tmp_path: Path) -> None:
    history = [{"step": 1, "loss": 2.5, "time": 0.5}, {"step": 2, "loss": float("inf")}]
    with tracking.following(
        TrackRequest(server="trackio", experiment="curves"),
        "adapt",
        "a",
        unsent=tmp_path / "u",
        parameters={"rank": 4, "_hidden": "x"},
        remark=None,
    ) as run:
        assert set(runs("curves")) == {"adapt a"}, "a run is seen from its begin"
        run.curve(history)
        run.tags({"kanna.gate": "passed"})
        run.metrics({"kl": 0.25}, 3)
    told = runs("curves")["adapt a"]
    assert logs("curves", told) == [
        (0, {}),
        (1, {"loss": 2.5, "__time": 0.5}),
        (2, {"loss": float("inf")}),
        (3, {"kl": 0.25}),
        (3, {}),
    ]
    config = {k: v for k, v in told.config.items() if not k.startswith("_")}
    assert config == {
        "rank": "4",
        "hidden": "x",
        "kanna.version": kanna.__version__,
        "kanna.verb": "adapt",
        "kanna.gate": "passed",
        "kanna.status": "FINISHED",
    }
    assert not (tmp_path / "u").exists()


def test_a_run_that_fails_says_so(board: Path, tmp_path: Path) -> None:
    request = TrackRequest(server="trackio")
    begun = tracking.following(
        request, "adapt", "b", unsent=tmp_path / "u", parameters={"rank": 4}, remark=None
    )
    with pytest.raises(ZeroDivisionError), begun:
        _ = 1 / 0
    assert runs("kanna")["adapt b"].config["kanna.status"] == "FAILED"


def test_files_for_a_network_s_file_system(
    board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_STORAGE_MODE", "jsonl")
    with tracking.following(
        TrackRequest(server="trackio:far"),
        "adapt",
        "c",
        unsent=tmp_path / "u",
        parameters={"rank": 4},
        remark=None,
    ) as run:
        run.metrics({"kl": 0.5}, 7)
    assert not (board / "far.db").exists() and [*(board / "inbox").rglob("*.jsonl")]
    from trackio import fragments  # pyright: ignore[reportMissingImports]

    fragments.import_inbox_dir()  # as a dashboard does
    told = runs("far")["adapt c"]
    assert (7, {"kl": 0.5}) in logs("far", told)
    assert told.config["kanna.status"] == "FINISHED" and not (tmp_path / "u").exists()


def test_a_folder_that_is_lost_ends_no_work(board: Path, tmp_path: Path) -> None:
    remarks: list[str] = []
    with tracking.following(
        TrackRequest(server="trackio:lost"),
        "adapt",
        "d",
        unsent=tmp_path / "unsent.jsonl",
        parameters={"rank": 4},
        remark=remarks.append,
    ) as run:
        for file in board.glob("lost.db*"):
            file.unlink()
        (board / "lost.db").mkdir()
        run.curve([{"step": 7, "loss": 1.5}])
    assert len(remarks) == 1 and "trackio:lost" in remarks[0]
    lines = [json.loads(line) for line in (tmp_path / "unsent.jsonl").read_text().splitlines()]
    assert lines[0]["call"] == "curve" and lines[0]["values"] == {
        "points": [{"step": 7, "loss": 1.5}]
    }
    assert lines[1]["values"] == {"status": "FINISHED"}


@pytest.mark.parametrize(
    ("track", "experiment", "said"),
    [
        ("trackio:", None, "no project"),
        ("trackio:my.model", None, "no project"),
        ("trackio", "a b", "no project"),
        ("trackio:registry-x", None, "reserved"),
        ("trackio:a", "b", "another"),
        ("trackios", None, "no tracking server"),
    ],
)
def test_what_is_no_project(
    board: Path, recipe: Path, tmp_path: Path, track: str, experiment: str | None, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        kanna.run(recipe, tmp_path / "out", track=track, experiment=experiment)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written(board: Path, recipe: Path, tmp_path: Path) -> None:
    (board / "broken.db").mkdir()
    with pytest.raises(SourceError, match="cannot write"):
        kanna.run(recipe, tmp_path / "out", track="trackio:broken")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow  # strace
def test_nothing_leaves_the_machine(recipe: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    kept = {k: v for k, v in os.environ.items() if k not in telemetry.SWITCHES}
    places = {"HOME": home, "TRACKIO_DIR": tmp_path / "board", "KANNA_CACHE": tmp_path / "cache"}
    given = {k: str(v) for k, v in places.items()} | {"PYTHONDONTWRITEBYTECODE": "1"}
    out = tmp_path / "out"
    command = [sys.executable, "-m", "kanna", "run", str(recipe), "-o", str(out)]
    seen = watching.run([*command, "--track", "trackio"], tmp_path, kept | given | REMOTE)
    assert seen.code == 1, seen.output[-3000:]  # the step that is broken
    assert seen.asked == []
    assert (tmp_path / "board" / "kanna.db").is_file()

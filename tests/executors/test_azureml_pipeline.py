"""A recipe as a pipeline of Azure ML: its commands, run here in the order of its jobs.

The SDK's own check of the files: `pip install '.[azureml]'`, then
`python -m pytest -m slow tests/executors/test_azureml_pipeline.py`.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

import kanna
from kanna._util import extras
from kanna.cli.main import cli
from kanna.errors import FormatError, OutputError, SourceError, UsageError
from kanna.recipes.records import read_manifest

OPTIONS = [
    "install=https://wheels.example/kanna_edge-0.1.0-cp310-abi3-linux_x86_64.whl",
    "pipeline=true",
]


def made(recipe: Path, out: Path, *given: str, **more: Any) -> dict[str, Any]:
    """The job and its components, by name."""
    kanna.run(recipe, out, on="azureml", on_set=[*OPTIONS, *given], dry_run=True, **more)
    files = [out / "job.yml", *sorted((out / "components").glob("*.yml"))]
    return {one.stem: yaml.safe_load(one.read_text(encoding="utf-8")) for one in files}


@pytest.fixture
def without_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    def present(name: str) -> bool:
        return not name.startswith("azure")

    monkeypatch.setattr(extras, "_found", present)


def performed(files: dict[str, Any], recipe: Path, folder: Path) -> dict[str, Path]:
    """The folders that the jobs of a pipeline leave, each run by its command in a folder alone."""
    done: dict[str, Path] = {}
    model = recipe.parent / "model/tiny.gguf"
    for name, job in files["job"]["jobs"].items():
        code = folder / f"code-{name}"  # where a job has the recipe, and nothing beside it
        code.mkdir(parents=True)
        shutil.copy(recipe, code)
        places = {"inputs.model": str(model), "outputs.run": str(folder / name)}
        for given, value in job["inputs"].items():
            maker = re.fullmatch(r"\$\{\{parent\.jobs\.(\w+)\.outputs\.run\}\}", value["path"])
            if maker:  # as it is when it was uploaded and fetched: with other times, elsewhere
                fetched = folder / f"fetched-{name}-{maker[1]}"
                shutil.copytree(done[maker[1]], fetched, copy_function=shutil.copy)
                places[f"inputs.{given}"] = str(fetched)
        command = files[name]["command"]
        for place, path in places.items():
            command = command.replace(f"${{{{{place}}}}}", path)
        words = shlex.split(command)
        words[2] = str(code / words[2])
        shown = CliRunner().invoke(cli, [*words[1:], "--quiet"])
        assert shown.exit_code == 0, shown.output
        done[name] = folder / name
    return done


def test_a_pipeline_makes_what_a_run_makes(recipe: Path, tmp_path: Path, without_sdk: None) -> None:
    text = recipe.read_text().replace(
        '    with: {source: "${small}"}',
        '    stop_when: about.bits_per_weight > 8\n    with: {source: "${small}"}',
    )
    recipe.write_text(text.replace("files: ${small}", "files: ${small.*}"), encoding="utf-8")
    files = made(recipe, tmp_path / "jobs", "register=tiny")
    assert list(files["job"]["jobs"]) == [
        "small_q8_0",
        "about_q8_0",
        "small_q4_0",
        "about_q4_0",
        "everything",
    ]
    # The first pair may end the second, so that this waits for it.
    assert set(files["small_q4_0"]["inputs"]) == {"model", "made_about_q8_0"}
    assert "model" not in files["about_q4_0"]["inputs"]
    assert files["job"]["outputs"]["run"]["name"] == "tiny"
    run = performed(files, recipe, tmp_path / "machines")["everything"]
    here = kanna.run(recipe, tmp_path / "here")
    there = read_manifest(run)
    assert there is not None and there.finished
    assert [(s.id, s.state, s.outputs) for s in there.steps] == [
        (s.id, s.state, manifest_outputs(tmp_path / "here", s.id)) for s in here.steps
    ]
    assert [s.state for s in there.steps] == ["done", "done", "stopped", "stopped"]
    own = read_manifest(tmp_path / "here")
    assert own is not None and there.outputs == own.outputs
    assert [(f.name, f.sha256) for f in there.files] == [(f.name, f.sha256) for f in own.files]
    record = (run / "steps/small-Q8_0/result.json").read_text()
    assert str(run) in record and "machines/small_q8_0" not in record
    again = kanna.run(recipe, run)
    assert again.count("kept") == 2 and again.ok, "the folder goes on as that of a run here"


def manifest_outputs(folder: Path, name: str) -> dict[str, str]:
    manifest = read_manifest(folder)
    assert manifest is not None
    return next(one.outputs for one in manifest.steps if one.id == name)


def test_what_is_given_of_other_runs_is_checked(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no step smal"):
        kanna.run(recipe, tmp_path / "out", only="smal")
    with pytest.raises(UsageError, match="about-Q8_0 needs what small-Q8_0 made"):
        kanna.run(recipe, tmp_path / "out", only="about-Q8_0")
    with pytest.raises(SourceError, match="no folder of a run"):
        kanna.run(recipe, tmp_path / "out", made=tmp_path)
    assert not (tmp_path / "out").exists()
    first = tmp_path / "first"
    assert kanna.run(recipe, first, only="small-Q8_0").count("done") == 1
    assert [one.name for one in (first / "steps").iterdir()] == ["small-Q8_0"]
    weights = first / "steps/small-Q8_0/small-Q8_0.gguf"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(FormatError, match="is not what its run wrote"):
        kanna.run(recipe, tmp_path / "out", only="about-Q8_0", made=[first])
    weights.unlink()
    with pytest.raises(FormatError, match="has no steps/small-Q8_0"):
        kanna.run(recipe, tmp_path / "out", only="about-Q8_0", made=[first])


def test_what_is_no_pipeline_is_refused(recipe: Path, tmp_path: Path, without_sdk: None) -> None:
    text = whole = recipe.read_text()
    for before, after in (
        ("for: {preset", 'for: {file: "${models}", preset'),
        ("${model}", "${file}"),
        ("variables:", "variables:\n  models: [./model/tiny.gguf]"),
    ):
        text = text.replace(before, after)
    recipe.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="a matrix goes through the files of models"):
        made(recipe, tmp_path / "jobs")
    search = "search: {trials: 2, space: {presets: [Q8_0]}, goals: {about.bytes: minimize}}\n"
    recipe.write_text(
        whole.replace('    for: {preset: "${presets}"}\n', "")
        .replace("${preset}", "${presets}")
        .replace("[Q8_0, Q4_0]", "Q8_0")
        + search,
        encoding="utf-8",
    )
    with pytest.raises(UsageError, match="a search is no pipeline"):
        made(recipe, tmp_path / "jobs")
    assert not (tmp_path / "jobs").exists()


@pytest.mark.slow  # the SDK loads for seconds
def test_the_sdk_of_azure_reads_every_component(recipe: Path, tmp_path: Path) -> None:
    sdk: Any = pytest.importorskip("azure.ai.ml")
    from kanna.executors import azureml

    remarks: list[str] = []
    out = tmp_path / "jobs"
    files = made(recipe, out, "compute=small", remark=remarks.append)
    assert any("held to the schemas of azure-ai-ml" in one for one in remarks)
    job = sdk.load_job(out / "job.yml")
    assert list(job.jobs) == list(files["job"]["jobs"])
    assert job.jobs["about_q4_0"].component.command == files["about_q4_0"]["command"]
    for name, key in (("job.yml", "jobs"), ("components/small_q8_0.yml", "command")):
        text = (out / name).read_text(encoding="utf-8")
        (out / name).write_text(text.replace(f"\n{key}:", f"\n{key}s:"), encoding="utf-8")
        with pytest.raises(OutputError, match="Azure's SDK refuses"):
            azureml.check([out / name])
        (out / name).write_text(text, encoding="utf-8")
        azureml.check([out / name])

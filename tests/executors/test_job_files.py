"""Jobs that other services run: the files of GitHub, GitLab and SkyPilot."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

import kanna
from kanna import executors
from kanna.cli.main import cli
from kanna.errors import OutputError, SourceError, UsageError

WHEEL = "https://wheels.example/kanna_edge-0.1.0-cp310-abi3-linux_x86_64.whl"
SERVICES = ("github", "gitlab", "skypilot")


def made(recipe: Path, service: str, *given: str, **more: Any) -> dict[str, Any]:
    """The file that is written for a service, read again."""
    result = kanna.run(recipe, on=service, on_set=[f"install={WHEEL}", *given], **more)
    (path,) = result.files
    assert result.dry_run and result.commands
    return yaml.safe_load(Path(path).read_text(encoding="utf-8"))


def words(line: str) -> list[str]:
    """The call of `kanna run` in a line of a shell."""
    split = shlex.split(line)
    return split[split.index("kanna") :]


def test_a_workflow_of_github_runs_the_recipe_in_its_checkout(recipe: Path) -> None:
    workflow = made(recipe, "github", "runner=self-hosted")
    assert Path(".github/workflows/kanna-presets.yml").is_file()
    job = workflow["jobs"]["run"]
    run = next(step["run"] for step in job["steps"] if step.get("name") == "Run the recipe")
    assert words(run) == ["kanna", "run", "recipes/presets.yaml", "-o", "presets-run"]
    install = next(step["run"] for step in job["steps"] if step.get("name") == "Install kanna")
    assert shlex.split(install)[-1] == f"kanna-edge @ {WHEEL}"
    assert {"recipes/presets.yaml", "recipes/model/tiny.gguf"} <= set(
        workflow["on"]["push"]["paths"]
    )
    cached = {step["with"]["path"] for step in job["steps"] if "cache" in step.get("uses", "")}
    assert cached == {"presets-run"} and job["runs-on"] == "self-hosted"
    # The line does what it says, where kanna is.
    done = CliRunner().invoke(cli, [*words(run)[1:], "--dry-run", "--json"])
    assert done.exit_code == 0 and len(json.loads(done.stdout)["planned"]) == 4


def test_a_job_of_gitlab_keeps_the_folder_of_the_run(recipe: Path) -> None:
    job = made(recipe, "gitlab", "tags=[gpu]", set=["presets=[Q5_0]"])["kanna-presets"]
    assert words(job["script"][0])[-2:] == ["--set", "presets=[Q5_0]"]
    assert job["cache"]["paths"][0] == job["artifacts"]["paths"][0] == "presets-run/"
    assert job["tags"] == ["gpu"] and job["image"] == "python:3.12"


def test_a_task_of_skypilot_takes_along_what_the_recipe_reads(recipe: Path) -> None:
    task = made(recipe, "skypilot", "accelerators=L4:1", "bucket=s3://runs")
    assert task["file_mounts"] == {
        "/kanna/recipe/presets.yaml": str(recipe),
        "/kanna/inputs/model/tiny.gguf": str(recipe.parent / "model" / "tiny.gguf"),
        "/kanna/out": {"name": "runs", "store": "s3", "mode": "MOUNT"},
    }
    call = words(task["run"])
    assert call[:5] == [
        "kanna",
        "run",
        "/kanna/recipe/presets.yaml",
        "-o",
        "/kanna/out/presets-run",
    ]
    assert call[5:] == ["--set", 'model="/kanna/inputs/model/tiny.gguf"']
    assert task["resources"]["accelerators"] == "L4:1"


def test_extras_are_those_of_the_steps(recipe: Path) -> None:
    checked = '  right: {verb: verify, with: {source: "${model}", artefact: "${small}"}}\noutputs:'
    recipe.write_text(
        recipe.read_text(encoding="utf-8").replace("outputs:", checked), encoding="utf-8"
    )
    install = made(recipe, "gitlab")["kanna-presets"]["before_script"][0]
    assert "kanna-edge[llamacpp,torch] @" in install


def test_options_come_from_a_file_too(recipe: Path, tmp_path: Path) -> None:
    config = tmp_path / "job.yaml"
    config.write_text(f"install: {WHEEL}\nminutes: 5\npython: '3.10'\n", encoding="utf-8")
    kanna.run(recipe, on="github", on_config=config, on_set={"python": "3.13"})
    text = Path(".github/workflows/kanna-presets.yml").read_text(encoding="utf-8")
    job = yaml.safe_load(text)["jobs"]["run"]
    assert job["timeout-minutes"] == 5
    assert job["steps"][1]["with"] == {"python-version": "3.13"}


@pytest.mark.parametrize("service", SERVICES)
def test_a_file_is_written_again_and_that_of_another_is_not(recipe: Path, service: str) -> None:
    (path,) = kanna.run(recipe, on=service, on_set=f"install={WHEEL}").files
    before = Path(path).read_text(encoding="utf-8")
    Path(path).write_text(before + "# changed\n", encoding="utf-8")
    made(recipe, service)
    assert Path(path).read_text(encoding="utf-8") == before
    Path(path).write_text("of somebody else\n", encoding="utf-8")
    with pytest.raises(OutputError, match="was not written by kanna"):
        made(recipe, service)
    assert Path(path).read_text(encoding="utf-8") == "of somebody else\n"


def test_what_cannot_run_there_is_refused(recipe: Path, tmp_path: Path, tiny_gguf: Path) -> None:
    with pytest.raises(UsageError, match="did you mean github"):
        kanna.run(recipe, on="githup")
    with pytest.raises(UsageError, match="where a machine elsewhere gets kanna from"):
        kanna.run(recipe, on="github")
    with pytest.raises(UsageError, match="did you mean minutes"):
        made(recipe, "github", "minute=3")
    with pytest.raises(UsageError, match="option minutes of github: .*integer"):
        made(recipe, "github", "minutes=soon")
    with pytest.raises(UsageError, match="is outside of"):
        made(recipe, "github", set={"model": str(tiny_gguf)})
    with pytest.raises(UsageError, match="is no bucket"):
        made(recipe, "skypilot", "bucket=runs")
    with pytest.raises(SourceError, match="does not exist"):
        kanna.run(recipe, on="github", on_config=tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="would evaluate"):
        recipe.write_text(recipe.read_text().replace("Two", "${{ secrets.KEY }}"), encoding="utf-8")
        made(recipe, "github")
    (recipe.parents[1] / ".git").rmdir()
    with pytest.raises(UsageError, match="is in no repository"):
        made(recipe, "gitlab")
    assert not list(Path().rglob("*.yml"))


def test_a_large_file_that_a_step_names_itself_wants_a_variable(recipe: Path) -> None:
    text = recipe.read_text(encoding="utf-8").replace('source: "${model}"', "source: model/big")
    (recipe.parent / "model" / "big").mkdir()
    with (recipe.parent / "model" / "big" / "weights.safetensors").open("wb") as file:
        file.truncate(101 << 20)
    recipe.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="too large to go with the recipe"):
        made(recipe, "skypilot")


def test_the_local_executor_has_nothing_to_set(recipe: Path) -> None:
    assert executors.LOCAL in executors.names()
    with pytest.raises(UsageError, match="local has no option cpus"):
        kanna.run(recipe, on_set="cpus=3")


@pytest.fixture(scope="module")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The schemas that check-jsonschema has of GitHub and GitLab, and SkyPilot itself."""
    folder = tmp_path_factory.mktemp("schemas")
    pip = [sys.executable, "-m", "pip", "-q"]
    subprocess.run(
        [*pip, "download", "--no-deps", "-d", folder, "check-jsonschema==0.39.0"], check=True
    )
    (wheel,) = folder.glob("check_jsonschema*.whl")
    zipfile.ZipFile(wheel).extractall(folder)
    subprocess.run([*pip, "install", "--target", folder / "sky", "skypilot==0.14.1"], check=True)
    return folder


@pytest.mark.slow  # packages are fetched; the tests above stand for it
def test_files_are_what_the_services_say_of_them(recipe: Path, schemas: Path) -> None:
    import jsonschema
    from jsonschema.validators import validator_for

    vendor = schemas / "check_jsonschema" / "builtin_schemas" / "vendor"
    for service, name in (("github", "github-workflows"), ("gitlab", "gitlab-ci")):
        schema = json.loads((vendor / f"{name}.json").read_text(encoding="utf-8"))
        file = made(recipe, service)
        validator = validator_for(schema)(schema)
        validator.validate(file)
        broken = json.loads(json.dumps(file).replace("script", "skript").replace("runs-on", "runs"))
        with pytest.raises(jsonschema.ValidationError):
            validator.validate(broken)
    made(recipe, "skypilot", "spot=true", "bucket=gs://runs")
    code = (
        "import jsonschema, pathlib, yaml; from sky.utils import schemas\n"
        "task = yaml.safe_load(pathlib.Path('kanna-presets.sky.yaml').read_text())\n"
        "jsonschema.validate(task, schemas.get_task_schema())\n"
        "import sky; print(sky.Task.from_yaml_config(task).run)"
    )
    environment = {
        "PYTHONPATH": str(schemas / "sky"),
        "HOME": str(schemas),
        "PATH": "/usr/bin:/bin",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "kanna run" in done.stdout

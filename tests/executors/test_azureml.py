"""Jobs of Azure ML: the files are what Azure's SDK reads, and say what the recipe needs.

`pip install '.[azureml]'`, then `python -m pytest -m slow tests/executors/test_azureml.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import kanna
from kanna._util import extras
from kanna.errors import OutputError, UsageError

URL = "https://wheels.example/kanna_edge-0.1.0-cp310-abi3-linux_x86_64.whl"


def made(recipe: Path, out: Path, *given: str, **more: Any) -> dict[str, Any]:
    """The YAML files that are written, by name."""
    result = kanna.run(
        recipe, out, on="azureml", on_set=[f"install={URL}", *given], dry_run=True, **more
    )
    files = [Path(path) for path in result.files if path.endswith(".yml")]
    return {f.relative_to(out).as_posix(): yaml.safe_load(f.read_text()) for f in files}


@pytest.fixture
def without_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    def present(name: str) -> bool:
        return not name.startswith("azure")

    monkeypatch.setattr(extras, "_found", present)


def test_a_job_names_its_inputs_and_environment(
    recipe: Path, tmp_path: Path, without_sdk: None
) -> None:
    remarks: list[str] = []
    out = tmp_path / "jobs"
    files = made(recipe, out, "compute=small", "register=tiny", remark=remarks.append)
    job, environment, data = files["job.yml"], files["environment.yml"], files["data/model.yml"]
    assert job["command"] == (
        "kanna run presets.yaml -o ${{outputs.run}} --set 'model=\"${{inputs.model}}\"'"
    )
    assert job["inputs"]["model"]["path"] == f"azureml:{data['name']}:{data['version']}"
    assert job["environment"] == f"azureml:{environment['name']}:{environment['version']}"
    assert job["compute"] == "azureml:small" and "resources" not in job
    assert job["outputs"]["run"] == {"type": "custom_model", "mode": "upload", "name": "tiny"}
    assert data["type"] == "uri_file" and Path(data["path"]).samefile(
        recipe.parent / "model/tiny.gguf"
    )
    assert (out / "code/presets.yaml").read_bytes() == recipe.read_bytes()
    assert any("not held to Azure's schemas" in one for one in remarks)


def test_the_environment_installs_kanna(recipe: Path, tmp_path: Path, without_sdk: None) -> None:
    first = made(recipe, tmp_path / "jobs")["environment.yml"]["version"]
    text = (tmp_path / "jobs/environment/Dockerfile").read_text()
    assert f"install --no-cache-dir 'kanna-edge @ {URL}'" in text
    wheel = tmp_path / "kanna_edge-0.1.0-cp310-abi3-linux_x86_64.whl"
    wheel.write_bytes(b"a wheel")
    second = made(recipe, tmp_path / "jobs", f"install={wheel}")["environment.yml"]["version"]
    text = (tmp_path / "jobs/environment/Dockerfile").read_text()
    assert f"COPY wheels/{wheel.name} /wheels/" in text and f"/wheels/{wheel.name}\n" in text
    assert (tmp_path / "jobs/environment/wheels" / wheel.name).read_bytes() == b"a wheel"
    wheel.write_bytes(b"another wheel")
    third = made(recipe, tmp_path / "jobs", f"install={wheel}")["environment.yml"]["version"]
    assert len({first, second, third}) == 3


def test_the_files_follow_the_recipe_and_its_inputs(
    recipe: Path, tmp_path: Path, without_sdk: None
) -> None:
    out = tmp_path / "jobs"
    first = made(recipe, out)
    assert made(recipe, out) == first
    recipe.write_text(recipe.read_text() + "# changed\n", encoding="utf-8")
    content = (recipe.parent / "model/tiny.gguf").read_bytes()
    (recipe.parent / "model/tiny.gguf").unlink()
    (recipe.parent / "model/tiny.gguf").write_bytes(content + b"\0")
    again = made(recipe, out)
    assert again["data/model.yml"]["version"] != first["data/model.yml"]["version"]
    assert (out / "code/presets.yaml").read_bytes() == recipe.read_bytes()
    other = tmp_path / "other"
    (other / "code").mkdir(parents=True)
    (other / "code/presets.yaml").write_text("of somebody else\n")
    with pytest.raises(OutputError, match="was not written by kanna"):
        made(recipe, other)
    assert [path.name for path in other.rglob("*") if path.is_file()] == ["presets.yaml"]


def test_what_azure_would_evaluate_is_refused(
    recipe: Path, tmp_path: Path, without_sdk: None
) -> None:
    recipe.write_text(recipe.read_text().replace("Two", "${{name}}"), encoding="utf-8")
    with pytest.raises(UsageError, match="would evaluate"):
        made(recipe, tmp_path / "jobs")
    assert not (tmp_path / "jobs").exists()


@pytest.mark.slow  # the SDK loads for seconds; the tests above stand for it
def test_the_sdk_of_azure_reads_every_file(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sdk: Any = pytest.importorskip("azure.ai.ml")
    from kanna.executors import azureml

    remarks: list[str] = []
    out = tmp_path / "jobs"
    files = made(recipe, out, "register=tiny", remark=remarks.append)
    assert any("held to the schemas of azure-ai-ml" in one for one in remarks)
    job = sdk.load_job(out / "job.yml")
    assert job.command == files["job.yml"]["command"]
    assert files["job.yml"]["inputs"]["model"]["path"] == f"azureml:{job.inputs['model'].path}"
    for name, key in (
        ("job.yml", "command"),
        ("environment.yml", "build"),
        ("data/model.yml", "path"),
    ):
        text = (out / name).read_text(encoding="utf-8")
        (out / name).write_text(text.replace(f"\n{key}:", f"\n{key}s:"), encoding="utf-8")
        with pytest.raises(OutputError, match="Azure's SDK refuses"):
            azureml.check([out / name])
        (out / name).write_text(text, encoding="utf-8")
        azureml.check([out / name])

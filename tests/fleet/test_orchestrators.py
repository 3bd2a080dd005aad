"""Rollouts as files for others: each before its schema, what stops a bad model in each."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner
from fleet import orchestrator_schemas as schemas
from helpers import engine_artefacts, fleets, needs
from helpers.fleets import HereFleet
from self_testing.test_selftest import SERVER

import kanna
from kanna import fleet
from kanna.cli.main import cli
from kanna.errors import KannaError, OutputError, UnsupportedError, UsageError
from kanna.fleet import orchestrators

ARN = "arn:aws:iot:eu-west-1:123456789012:thinggroup/pi"
IMAGE = f"oci://registry.example/team/model@sha256:{'1' * 64}"
OPTIONS: dict[str, dict[str, str]] = {
    "kubernetes": {"image": IMAGE},
    "kubeedge": {"image": IMAGE, "group": "site=oslo"},
    "azure-iot-operations": {"image": IMAGE, "source": "https://git.example/fleet"},
    "flightctl": {"image": IMAGE},
    "greengrass": {"source": "s3://bucket/models", "group": ARN},
    "mender": {},
}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HereFleet]:
    with fleets.here(tmp_path_factory.mktemp("orchestrators")) as running:
        running.publish(b"good 1")
        yield running


def written(here: HereFleet, folder: Path, name: str, **options: Any) -> dict[str, str]:
    """Texts of the files that were written, by their paths."""
    made = fleet.manifests(
        orchestrator=name, out=folder, server=here.server, **OPTIONS[name] | options
    )
    texts = {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert sorted(texts) == made.files and made.usage
    for line in made.usage:
        subprocess.run(["sh", "-n", "-c", line], check=True)
    return texts


def of_kubernetes(texts: dict[str, str]) -> list[dict[str, Any]]:
    """Objects of Kubernetes, each before its schema."""
    import kubernetes_validate as validator

    parts = [p for t in texts.values() for p in yaml.safe_load_all(t)]
    for part in parts:
        validator.validate(part, "1.33", strict=True)
    return parts


def check_pods(pods: dict[str, Any]) -> None:
    """The model is an image volume, tested before it is served, beside the one before."""
    update, spec = pods["spec"]["updateStrategy"], pods["spec"]["template"]["spec"]
    assert update["rollingUpdate"]["maxUnavailable"] == 0
    [volume] = [one for one in spec["volumes"] if one["name"] == "model"]
    assert volume["image"]["reference"] == IMAGE.removeprefix("oci://")
    assert "selftest.py" in spec["initContainers"][0]["command"][2]


def test_kubernetes(here: HereFleet, tmp_path: Path) -> None:
    parts = of_kubernetes(written(here, tmp_path / "k", "kubernetes"))
    assert [one["kind"] for one in parts] == ["ConfigMap", "DaemonSet", "Service"]
    check_pods(parts[1])
    assert parts[1]["spec"]["updateStrategy"]["rollingUpdate"]["maxSurge"] == "1%"
    assert parts[1]["spec"]["minReadySeconds"] == 600
    assert json.loads(parts[0]["data"]["selftest.json"])["artefact"] == "m.gguf"


def test_kubeedge(here: HereFleet, tmp_path: Path) -> None:
    texts = written(here, tmp_path / "k", "kubeedge", ring=["10%", "100%"])
    assert sorted(texts) == ["ring-1.yaml", "ring-2.yaml", "selftest.yaml"]
    for part in of_kubernetes(texts):
        if part["kind"] == "DaemonSet":
            check_pods(part)
            nodes = part["spec"]["template"]["spec"]["nodeSelector"]
            assert nodes["site"] == "oslo" and "node-role.kubernetes.io/edge" in nodes
            assert part["metadata"]["name"].endswith(nodes["kanna.fleet/ring"])


def test_azure_iot_operations(here: HereFleet, tmp_path: Path) -> None:
    texts = written(here, tmp_path / "a", "azure-iot-operations")
    template = json.loads(texts.pop("flux-configuration.json"))
    jsonschema.validate(template, schemas.AZURE)
    of_kubernetes(texts)
    steps = template["resources"][0]["properties"]["kustomizations"]
    assert steps["ring-2"]["dependsOn"] == ["ring-1"] and steps["ring-1"]["wait"]
    assert all(any(f.startswith(one["path"][2:] + "/") for f in texts) for one in steps.values())


def test_flightctl(here: HereFleet, tmp_path: Path) -> None:
    [text] = written(here, tmp_path / "f", "flightctl").values()
    made = yaml.safe_load(text)
    jsonschema.validate(made, schemas.FLIGHTCTL)
    policy = made["spec"]["rolloutPolicy"]
    limits = [one["limit"] for one in policy["deviceSelection"]["sequence"]]
    assert limits == ["1%", "9%"] and policy["successThreshold"] == "90%"
    [application] = made["spec"]["template"]["spec"]["applications"]
    files = {one["path"]: one["content"] for one in application["inline"]}
    compose = yaml.safe_load(files["docker-compose.yaml"])
    needs = compose["services"]["server"]["depends_on"]["selftest"]
    assert needs == {"condition": "service_completed_successfully"}
    assert compose["volumes"] == {"model": {"external": True}}


def test_greengrass(here: HereFleet, tmp_path: Path) -> None:
    texts = written(here, tmp_path / "g", "greengrass", ring=["1%:passes=100%", "100%"])
    recipe = yaml.safe_load(texts["recipe.yaml"])
    jsonschema.validate(recipe, schemas.RECIPE)
    assert "selftest.py" in recipe["Manifests"][0]["Lifecycle"]["Install"]["Script"]
    for number in (1, 2):
        deployment = json.loads(texts[f"ring-{number}.json"])
        jsonschema.validate(deployment, schemas.GREENGRASS)
        assert deployment["targetArn"] == f"{ARN}-ring-{number}"
        assert deployment["deploymentPolicies"]["failureHandlingPolicy"] == "ROLLBACK"
        [(name, component)] = deployment["components"].items()
        assert name == recipe["ComponentName"]
        assert component["componentVersion"] == recipe["ComponentVersion"]


def test_mender(here: HereFleet, tmp_path: Path) -> None:
    texts = written(here, tmp_path / "m", "mender")
    body = json.loads(texts["deployment.json"])
    jsonschema.validate(body, schemas.MENDER, format_checker=jsonschema.FormatChecker())
    assert [one.get("batch_size") for one in body["phases"]] == [1, 9, None]
    for name in ("make-artifact.sh", "state-scripts/ArtifactCommit_Enter_10_selftest"):
        subprocess.run(["sh", "-n"], input=texts[name], text=True, check=True)
    assert body["artifact_name"] in texts["make-artifact.sh"]
    assert "phases" not in json.loads(
        written(here, tmp_path / "one", "mender", ring="100%")["deployment.json"]
    )


def test_each_is_one_file_that_is_found_by_its_name() -> None:
    assert orchestrators.names() == sorted(OPTIONS)
    run = CliRunner().invoke(cli, ["fleet", "manifests", "--help"])
    assert all(name in run.output for name in orchestrators.names())


WRONG: list[tuple[dict[str, Any], type[KannaError], str]] = [
    ({"orchestrator": "nomad"}, UnsupportedError, "no orchestrator named 'nomad'"),
    ({"orchestrator": "kubernetes"}, UsageError, "needs --image"),
    ({"orchestrator": "kubernetes", "image": "Not An Image"}, KannaError, "names nothing"),
    ({"orchestrator": "mender", "group": "$(reboot)"}, UsageError, "--group"),
    ({"orchestrator": "mender", "ring": "50%"}, UsageError, "the rings"),
    ({"orchestrator": "mender", "artefact": "ffff"}, UsageError, "begins with 'ffff'"),
    ({"orchestrator": "greengrass", "source": "s3://b/f", "group": "pi"}, UsageError, "thing gr"),
    ({"orchestrator": "greengrass", "source": "https://b", "group": ARN}, UsageError, "fetches"),
]


@pytest.mark.parametrize("case", range(len(WRONG)))
def test_what_is_wrong_leaves_nothing(here: HereFleet, tmp_path: Path, case: int) -> None:
    options, kind, words = WRONG[case]
    with pytest.raises(kind, match=words):
        fleet.manifests(out=tmp_path / "out", server=here.server, **options)
    assert not [*tmp_path.iterdir()]


def test_a_folder_with_files_is_left_alone(here: HereFleet, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(OutputError, match="is there"):
        fleet.manifests(orchestrator="mender", out=tmp_path, server=here.server)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.slow
def test_the_self_test_of_a_pod_tells_a_bad_model(
    here: HereFleet, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """The line of the init container with the folders of this test, on a real model."""
    needs.llama_cpp()
    pytest.importorskip("xllamacpp")
    tiny = tmp_path / "model" / "tiny.gguf"
    tiny.parent.mkdir()
    tiny.write_bytes(engine_artefacts.shared("gguf", tmp_path_factory).read_bytes())
    kanna.selftest(tiny, write=True, threads=1)
    fleet.publish(tiny, server=here.server)
    [text] = written(here, tmp_path / "k", "kubernetes").values()
    test, pods, _ = yaml.safe_load_all(text)
    line = pods["spec"]["template"]["spec"]["initContainers"][0]["command"][2]
    program = tmp_path / "llama-server"
    program.write_text(SERVER.format(python=sys.executable))
    program.chmod(0o755)
    line = line.replace("/app/llama-server", str(program))
    for name in ("model", "selftest", "work"):
        (tmp_path / name).mkdir(exist_ok=True)
        line = line.replace(f"/{name}/", f"{tmp_path}/{name}/")
    for name, content in test["data"].items():
        (tmp_path / "selftest" / name).write_text(content)
    good = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    assert good.returncode == 0, good.stderr + good.stdout
    values = json.loads(test["data"]["selftest.json"])
    values["positions"][0]["token"] ^= 1
    (tmp_path / "selftest" / "selftest.json").write_text(json.dumps(values))
    bad = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    assert bad.returncode == 1 and "FAIL tokens" in bad.stdout

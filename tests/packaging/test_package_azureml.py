"""The endpoint of Azure ML in a package: Azure's SDK reads it, and it starts our image.

The SDK: `pip install '.[azureml]'`, then
`python -m pytest -m slow tests/packaging/test_package_azureml.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.packing import command_of

from kanna.errors import UnsupportedError
from kanna.packaging import check, package


@pytest.fixture(scope="module")
def endpoint(packable: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package for an endpoint."""
    out = tmp_path_factory.mktemp("azureml") / "package"
    package(packable, out, to=["azureml"], image="edge.azurecr.io/tiny:1", parallel=3, cpus=3)
    return out


def test_the_endpoint_runs_the_image_of_docker(endpoint: Path) -> None:
    check(endpoint)
    first, base, command = (endpoint / "azureml/Dockerfile").read_text().splitlines()
    assert first == "ARG IMAGE=edge.azurecr.io/tiny:1" and base == "FROM ${IMAGE}"
    assert json.loads(command.removeprefix("CMD ")) == [*command_of(endpoint), "--open-to-all"]
    about = yaml.safe_load((endpoint / "azureml/endpoint.yml").read_text())
    main = yaml.safe_load((endpoint / "azureml/deployment.yml").read_text())
    assert main["endpoint_name"] == about["name"] and len(about["name"]) <= 32
    assert main["environment"]["image"] == "edge.azurecr.io/tiny:1-azureml"
    assert main["instance_type"] == "Standard_F4s_v2"
    assert main["request_settings"]["max_concurrent_requests_per_instance"] == 3
    text = (endpoint / "README.md").read_text()
    assert "docker build --tag edge.azurecr.io/tiny:1-azureml azureml" in text


def test_more_than_any_machine_has(packable: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="has 73 cores"):
        package(packable, tmp_path / "package", to=["azureml"], cpus=73)
    assert not (tmp_path / "package").exists()


@pytest.mark.slow  # the SDK loads for seconds
def test_the_sdk_of_azure_reads_it(endpoint: Path, tmp_path: Path) -> None:
    sdk: Any = pytest.importorskip("azure.ai.ml")
    about = sdk.load_online_endpoint(endpoint / "azureml/endpoint.yml")
    main = sdk.load_online_deployment(endpoint / "azureml/deployment.yml")
    assert about.auth_mode == "key" and main.endpoint_name == about.name
    assert main.environment.image == "edge.azurecr.io/tiny:1-azureml"
    routes = main.environment.inference_config
    assert (routes.readiness_route.port, routes.readiness_route.path) == (8000, "/ready")
    assert routes.liveness_route.path == "/health" and routes.scoring_route.path == "/"
    assert main.request_settings.request_timeout_ms == 180000
    wrong = tmp_path / "deployment.yml"
    text = (endpoint / "azureml/deployment.yml").read_text()
    wrong.write_text(text.replace("instance_count: 1", "instance_count: many"))
    with pytest.raises(Exception, match="instance_count"):
        sdk.load_online_deployment(wrong)

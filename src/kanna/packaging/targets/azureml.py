"""Azure ML: a managed online endpoint that runs the image of `docker`.

The endpoint asks for its key before a request gets to the container, which nothing else reaches: so
the gateway in it asks for none. A command cannot be given there, hence an image of its own.
"""

from __future__ import annotations

import json
from typing import Any

from kanna.errors import UnsupportedError
from kanna.escaping import shell_word, yaml_text
from kanna.packaging.service import HEALTH, PORT, READY, Service
from kanna.packaging.targets.base import Target

_SCHEMAS = "https://azuremlschemas.azureedge.net/latest"
_MOST_LETTERS = 32
_MACHINES = (
    *(("Standard_F2s_v2", 2, 4), ("Standard_DS2_v2", 2, 7), ("Standard_E2s_v3", 2, 16)),
    *(("Standard_F4s_v2", 4, 8), ("Standard_DS3_v2", 4, 14), ("Standard_E4s_v3", 4, 32)),
    *(("Standard_F8s_v2", 8, 16), ("Standard_DS4_v2", 8, 28), ("Standard_E8s_v3", 8, 64)),
    *(("Standard_F16s_v2", 16, 32), ("Standard_DS5_v2", 16, 56), ("Standard_E16s_v3", 16, 128)),
    *(("Standard_F32s_v2", 32, 64), ("Standard_E32s_v3", 32, 256)),
    *(("Standard_F72s_v2", 72, 144), ("Standard_E64s_v3", 64, 432)),
)
"""Kinds of machines of such endpoints, with cores and GiB, smaller ones first."""
_SYSTEM_MIB = 1024
"""Of a machine, what Azure's own containers have."""


def files(service: Service) -> dict[str, str]:
    """Returns the endpoint, its deployment, and the Dockerfile of its image."""
    command = json.dumps([*service.arguments(), "--open-to-all"])
    return {
        "azureml/Dockerfile": f"ARG IMAGE={service.image}\nFROM ${{IMAGE}}\nCMD {command}\n",
        "azureml/endpoint.yml": yaml_text(_endpoint(service), width=100),
        "azureml/deployment.yml": yaml_text(_deployment(service), width=100),
    }


def _name(service: Service) -> str:
    return service.name[:_MOST_LETTERS].rstrip("-")


def _image(service: Service) -> str:
    """The reference of the image that asks for no keys."""
    plain = service.image.partition("@")[0]
    _, colon, tag = plain.rpartition(":")
    return f"{plain}-azureml" if colon and "/" not in tag else f"{plain}:azureml"


def _endpoint(service: Service) -> dict[str, Any]:
    return {
        "$schema": f"{_SCHEMAS}/managedOnlineEndpoint.schema.json",
        "name": _name(service),
        "auth_mode": "key",
        "tags": {"artefact_sha256": service.artefact.digest},
    }


def _deployment(service: Service) -> dict[str, Any]:
    resources = service.resources
    return {
        "$schema": f"{_SCHEMAS}/managedOnlineDeployment.schema.json",
        "name": "main",
        "endpoint_name": _name(service),
        "environment": {
            "name": _name(service),
            "version": service.artefact.digest[:12],
            "image": _image(service),
            "inference_config": {
                "liveness_route": {"port": PORT, "path": HEALTH},
                "readiness_route": {"port": PORT, "path": READY},
                "scoring_route": {"port": PORT, "path": "/"},
            },
        },
        "instance_type": _machine(service),
        "instance_count": 1,
        "request_settings": {
            "max_concurrent_requests_per_instance": resources.parallel,
            "request_timeout_ms": 180000,
        },
        "readiness_probe": _probe(period=10, failures=60),
        "liveness_probe": _probe(period=30, failures=30),
    }


def _probe(*, period: int, failures: int) -> dict[str, int]:
    return {
        "initial_delay": 10,
        "period": period,
        "timeout": 5,
        "success_threshold": 1,
        "failure_threshold": failures,
    }


def _machine(service: Service) -> str:
    """The smallest kind of machine that has the memory and the cores."""
    needed, cpus = service.resources.memory_mib + _SYSTEM_MIB, service.resources.cpus
    for name, cores, gib in _MACHINES:
        if cores >= cpus and gib * 1024 >= needed:
            return name
    raise UnsupportedError(
        f"no machine of a managed online endpoint has {cpus} cores and {needed} MiB",
        expected="at most 72 cores and 144 GiB, or 64 and 432",
        todo="fewer requests at once (--parallel), a shorter --context or fewer --cpus",
    )


def usage(service: Service) -> list[str]:
    """Returns the shell lines that start the service."""
    image, own = shell_word(service.image), shell_word(_image(service))
    return [
        f"docker build --tag {image} .",
        f"docker build --tag {own} azureml && docker push {own}",
        "az ml online-endpoint create --file azureml/endpoint.yml",
        "az ml online-deployment create --file azureml/deployment.yml --all-traffic",
        "# the key that requests to the endpoint need:",
        f"az ml online-endpoint get-credentials --name {_name(service)}",
    ]


TARGET = Target(
    title="Azure ML",
    summary="Azure ML: a managed online endpoint with the image of `docker`, behind the key of "
    "the endpoint",
    files=files,
    usage=usage,
    needs=("docker",),
)

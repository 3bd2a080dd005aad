"""Docker Compose: the image of `docker` with limits and a volume, on the loopback interface."""

from __future__ import annotations

from typing import Any

from kanna.escaping import yaml_text
from kanna.packaging.service import HEALTH, PORT, STATE, UID, Service, probe
from kanna.packaging.targets.base import Target


def files(service: Service) -> dict[str, str]:
    """Returns compose.yaml."""
    resources = service.resources
    gateway: dict[str, Any] = {
        "image": _literal(service.image),
        "build": {"context": "."},
        "command": [_literal(word) for word in service.arguments()],
        "user": f"{UID}:{UID}",
        "read_only": True,
        "tmpfs": ["/tmp:mode=1777,size=64m"],
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "init": True,
        "restart": "unless-stopped",
        "stop_grace_period": "30s",
        "ports": [f"127.0.0.1:{PORT}:{PORT}"],
        "volumes": [f"state:{STATE}"],
        "healthcheck": {
            "test": ["CMD", *probe(HEALTH, python="/opt/kanna/bin/python")],
            "interval": "15s",
            "timeout": "5s",
            "start_period": "120s",
            "retries": 3,
        },
        "pids_limit": 512,
        "deploy": {
            "resources": {
                "reservations": {
                    "cpus": f"{resources.cpus}.0",
                    "memory": f"{resources.memory_mib}M",
                },
                "limits": {"cpus": f"{resources.cpus}.0", "memory": f"{resources.memory_mib}M"},
            }
        },
        # No swap: a model that swaps answers nobody.
        "mem_swappiness": 0,
    }
    document = {"services": {"gateway": gateway}, "volumes": {"state": {"name": service.name}}}
    return {"compose.yaml": yaml_text(document, width=120)}


def _literal(text: str) -> str:
    """Compose puts in variables: a dollar is written twice."""
    return text.replace("$", "$$")


def usage(service: Service) -> list[str]:
    """Returns the shell lines that start the service."""
    return [
        "docker compose build",
        "docker compose run --rm gateway keys create --name first",
        "docker compose up --detach --wait",
    ]


TARGET = Target(
    title="Docker Compose",
    summary="Docker Compose: the image of `docker` with its limits and a volume for keys and "
    "usage, on the loopback interface",
    files=files,
    usage=usage,
    needs=("docker",),
)

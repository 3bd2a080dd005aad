"""Azure IoT Operations: Arc brings the pods of each ring to the cluster, one after another."""

from __future__ import annotations

from typing import Any

from kanna.escaping import json_text, yaml_text
from kanna.fleet.orchestrators import _pods
from kanna.fleet.orchestrators.base import RING_LABEL, ForeignRollout, Orchestrator

_SCHEMA = "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#"
_NAMESPACE = "azure-iot-operations"


def files(rollout: ForeignRollout) -> dict[str, str]:
    """What lies in the repository, a folder for each step, and the template that points there."""
    made = {"selftest/selftest.yaml": yaml_text(_pods.config_map(rollout), width=120)}
    for number, ring in enumerate(rollout.rings, 1):
        pods = _pods.daemon_set(
            rollout,
            nodes=_pods.selector(rollout, {}),
            ring=number,
            surge="100%" if number > 1 else "25%",
            soak=ring.soak,
        )
        made[f"ring-{number}/pods.yaml"] = yaml_text(pods, width=120)
    return made | {"flux-configuration.json": json_text(_template(rollout)) + "\n"}


def _template(rollout: ForeignRollout) -> dict[str, Any]:
    steps: dict[str, Any] = {"selftest": _step("selftest", [])}
    before = "selftest"
    for number, ring in enumerate(rollout.rings, 1):
        name = f"ring-{number}"
        steps[name] = _step(name, [before], int(ring.soak) + 3600)
        before = name
    return {
        "$schema": _SCHEMA,
        "contentVersion": "1.0.0.0",
        "parameters": {"cluster": {"type": "string"}},
        "resources": [
            {
                "type": "Microsoft.KubernetesConfiguration/fluxConfigurations",
                "apiVersion": "2023-05-01",
                "name": rollout.slug,
                "scope": "[concat('Microsoft.Kubernetes/connectedClusters/',"
                " parameters('cluster'))]",
                "properties": {
                    "scope": "cluster",
                    "namespace": _NAMESPACE,
                    "sourceKind": "GitRepository",
                    "gitRepository": {
                        "url": rollout.source,
                        "repositoryRef": {"branch": "main"},
                        "syncIntervalInSeconds": 300,
                    },
                    "kustomizations": steps,
                },
            }
        ],
    }


def _step(path: str, after: list[str], seconds: int = 3600) -> dict[str, Any]:
    """A step that holds when all of it is ready; the next one waits for that."""
    return {
        "path": f"./{path}",
        "dependsOn": after,
        "timeoutInSeconds": seconds,
        "syncIntervalInSeconds": 300,
        "prune": True,
        "wait": True,
    }


def usage(_: ForeignRollout) -> list[str]:
    """Bring the files to the repository, and point the cluster there."""
    template = "--template-file flux-configuration.json --parameters cluster=CLUSTER"
    return [
        f"kubectl label node NODE {RING_LABEL}=1  # … and every other node, as its ring is",
        "git add selftest ring-* && git commit --message 'Another model' && git push",
        f"az deployment group create --resource-group GROUP {template}",
    ]


ORCHESTRATOR = Orchestrator(
    title="Azure IoT Operations",
    needs=("image", "source"),
    files=files,
    usage=usage,
    remarks=(
        "the cluster needs image volumes and the extension microsoft.flux",
        "labels of nodes say which ring each is in, not shares",
        "--source is a git repository, of which the branch main is followed",
        "pods are in the namespace default",
    ),
)

"""KubeEdge: the pods of Kubernetes on edge nodes, a file for each ring."""

from __future__ import annotations

from kanna.escaping import yaml_text
from kanna.fleet.orchestrators import _pods
from kanna.fleet.orchestrators.base import RING_LABEL, ForeignRollout, Orchestrator

_EDGE = {"node-role.kubernetes.io/edge": ""}


def files(rollout: ForeignRollout) -> dict[str, str]:
    """The self-test, and the pods of each ring."""
    made = {"selftest.yaml": yaml_text(_pods.config_map(rollout), width=120)}
    for number, ring in enumerate(rollout.rings, 1):
        pods = _pods.daemon_set(
            rollout,
            nodes=_EDGE | _pods.selector(rollout, {}),
            ring=number,
            surge="100%" if number > 1 else "25%",
            soak=ring.soak,
        )
        made[f"ring-{number}.yaml"] = yaml_text(pods, width=120)
    return made


def usage(rollout: ForeignRollout) -> list[str]:
    """Begin it, ring by ring."""
    lines = [
        f"kubectl label node NODE {RING_LABEL}=1  # … and every other node, as its ring is",
        "kubectl apply --filename selftest.yaml",
    ]
    for number in range(1, len(rollout.rings) + 1):
        name = f"daemonset/{rollout.slug}-ring-{number}"
        status = f"kubectl rollout status {name} --timeout 1h"
        lines.append(f"kubectl apply --filename ring-{number}.yaml && {status}")
    return lines


ORCHESTRATOR = Orchestrator(
    title="KubeEdge",
    needs=("image",),
    files=files,
    usage=usage,
    remarks=(
        "edge nodes need a container runtime with image volumes, and the feature ImageVolume",
        "labels of nodes say which ring each is in, not shares",
    ),
)

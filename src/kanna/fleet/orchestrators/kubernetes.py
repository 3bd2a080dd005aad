"""Kubernetes: a pod on every node, the model as an image volume."""

from __future__ import annotations

from kanna.escaping import yaml_text
from kanna.fleet.orchestrators import _pods
from kanna.fleet.orchestrators.base import ForeignRollout, Orchestrator


def files(rollout: ForeignRollout) -> dict[str, str]:
    """One file: the self-test, the daemon set, its service."""
    # What surges is the first ring: where its pods do not become ready, no further node has one.
    pods = _pods.daemon_set(
        rollout,
        nodes=_pods.selector(rollout, {}),
        ring=None,
        surge=f"{rollout.shares()[0]}%",
        soak=rollout.rings[0].soak,
    )
    parts = _pods.config_map(rollout), pods, _pods.service(rollout)
    return {f"{rollout.slug}.yaml": yaml_text(*parts, width=120)}


def usage(rollout: ForeignRollout) -> list[str]:
    """Begin it, see it through, take it back."""
    return [
        f"kubectl apply --filename {rollout.slug}.yaml",
        f"kubectl rollout status daemonset/{rollout.slug}",
        f"kubectl rollout undo daemonset/{rollout.slug}",
    ]


ORCHESTRATOR = Orchestrator(
    title="Kubernetes",
    needs=("image",),
    files=files,
    usage=usage,
    remarks=(
        "image volumes need Kubernetes 1.33 with the feature ImageVolume, or newer",
        "all rings after the first go in steps of the first one's size",
        "a node holds two models while one replaces the other",
    ),
)

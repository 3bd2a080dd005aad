"""What runs on a node of Kubernetes: the model as an image volume, its self-test before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kanna.fleet.orchestrators.base import (
    PORT,
    RING_LABEL,
    RUNTIME_IMAGE,
    SERVER_IN_IMAGE,
    ForeignRollout,
)

_RESTRICTED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def config_map(rollout: ForeignRollout) -> dict[str, Any]:
    """The self-test. Its name has the digest: a pod that runs keeps the one it began with."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": _test_name(rollout), "labels": labels(rollout)},
        "immutable": True,
        "data": {"selftest.py": rollout.runner, "selftest.json": rollout.expected},
    }


def service(rollout: ForeignRollout) -> dict[str, Any]:
    """The model for who asks on the same node."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": rollout.slug, "labels": labels(rollout)},
        "spec": {
            "selector": labels(rollout),
            "internalTrafficPolicy": "Local",
            "ports": [{"name": "http", "port": PORT, "targetPort": "http"}],
        },
    }


def labels(rollout: ForeignRollout) -> dict[str, str]:
    """Of every object."""
    return {"app.kubernetes.io/name": "kanna", "app.kubernetes.io/instance": rollout.slug}


def daemon_set(
    rollout: ForeignRollout, *, nodes: Mapping[str, str], ring: int | None, surge: str, soak: float
) -> dict[str, Any]:
    """A pod on every node that is chosen.

    A new pod starts beside the old one, which goes when the new one passed its self-test and is
    ready for long enough: a node keeps a working model.

    Args:
        rollout: What runs.
        nodes: Labels that its nodes have.
        ring: Whose nodes they are, counted from 1; None: all.
        surge: Nodes that may have two at a time.
        soak: Seconds for which it must be ready.
    """
    name = rollout.slug if ring is None else f"{rollout.slug}-ring-{ring}"
    own = labels(rollout) | ({} if ring is None else {RING_LABEL: str(ring)})
    chosen = {**nodes} | ({} if ring is None else {RING_LABEL: str(ring)})
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {
            "name": name,
            "labels": own,
            "annotations": {"kanna.fleet/digest": rollout.digest},
        },
        "spec": {
            "selector": {"matchLabels": own},
            "minReadySeconds": int(soak),
            "updateStrategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": surge, "maxUnavailable": 0},
            },
            "template": {"metadata": {"labels": own}, "spec": _pod(rollout, chosen)},
        },
    }


def _pod(rollout: ForeignRollout, nodes: Mapping[str, str]) -> dict[str, Any]:
    model = {"name": "model", "mountPath": "/model", "readOnly": True}
    test = {"name": "selftest", "mountPath": "/selftest", "readOnly": True}
    work = {"name": "work", "mountPath": "/work"}
    served = ["--model", f"/model/{rollout.model}", "--host", "0.0.0.0", "--port", str(PORT)]  # noqa: S104
    return {
        "automountServiceAccountToken": False,
        **({"nodeSelector": {**nodes}} if nodes else {}),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "fsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "initContainers": [
            {
                "name": "selftest",
                "image": RUNTIME_IMAGE,
                "command": ["/bin/sh", "-c", rollout.check("/model", "/selftest", "/work")],
                "securityContext": _RESTRICTED,
                "volumeMounts": [model, test, work],
            }
        ],
        "containers": [
            {
                "name": "server",
                "image": RUNTIME_IMAGE,
                "command": [SERVER_IN_IMAGE],
                "args": served,
                "ports": [{"name": "http", "containerPort": PORT}],
                "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}},
                "securityContext": _RESTRICTED,
                "volumeMounts": [model],
            }
        ],
        "volumes": [
            {"name": "model", "image": {"reference": rollout.image, "pullPolicy": "IfNotPresent"}},
            {"name": "selftest", "configMap": {"name": _test_name(rollout)}},
            {"name": "work", "emptyDir": {"sizeLimit": "64Mi"}},
        ],
    }


def _test_name(rollout: ForeignRollout) -> str:
    return f"{rollout.slug}-{rollout.digest[:10]}"


def selector(rollout: ForeignRollout, default: Mapping[str, str]) -> dict[str, str]:
    """The labels that `--group KEY=VALUE` names, or the default's."""
    key, _, value = rollout.group.partition("=")
    return {key: value} if key else dict(default)

"""Kubernetes: one replica of the image of `docker`, reachable from its own namespace only."""

from __future__ import annotations

from typing import Any

from kanna.escaping import shell_word, yaml_text
from kanna.packaging.service import HEALTH, METRICS, PORT, READY, STATE, UID, Service
from kanna.packaging.targets.base import Target


def files(service: Service) -> dict[str, str]:
    """Returns one manifest: account, volume claim, deployment, service and network policy."""
    parts = (
        _account(service),
        _claim(service),
        _deployment(service),
        _service(service),
        _policy(service),
    )
    return {f"kubernetes/{service.name}.yaml": yaml_text(*parts, width=120)}


def _labels(service: Service) -> dict[str, str]:
    return {"app.kubernetes.io/name": "kanna", "app.kubernetes.io/instance": service.artefact.slug}


def _meta(service: Service, **more: Any) -> dict[str, Any]:
    return {"name": service.name, "labels": _labels(service), **more}


def _account(service: Service) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": _meta(service),
        "automountServiceAccountToken": False,
    }


def _claim(service: Service) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": _meta(service),
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }


def _deployment(service: Service) -> dict[str, Any]:
    scraped = {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(PORT),
        "prometheus.io/path": METRICS,
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _meta(service, annotations={"kanna/artefact-sha256": service.artefact.digest}),
        "spec": {
            # Keys and usage are one SQLite file: never two writers, also not while a new version
            # starts.
            "replicas": 1,
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": _labels(service)},
            "template": {
                "metadata": {"labels": _labels(service), "annotations": scraped},
                "spec": _pod(service),
            },
        },
    }


def _pod(service: Service) -> dict[str, Any]:
    return {
        "serviceAccountName": service.name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 30,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": UID,
            "runAsGroup": UID,
            "fsGroup": UID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(service)],
        "volumes": [
            {"name": "state", "persistentVolumeClaim": {"claimName": service.name}},
            {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
        ],
    }


def _container(service: Service) -> dict[str, Any]:
    # Requests equal to limits: the pod is in the class that is evicted last, and is granted what
    # `fit` counted.
    granted = {
        "cpu": str(service.resources.cpus),
        "memory": f"{service.resources.memory_mib}Mi",
        "ephemeral-storage": "256Mi",
    }
    return {
        "name": "gateway",
        "image": service.image,
        "args": [*service.arguments(), "--wait-for-key"],  # the first key is made inside
        "ports": [{"name": "http", "containerPort": PORT}],
        "resources": {"requests": granted, "limits": granted},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "startupProbe": _probe(READY, period=5, failures=60),
        "readinessProbe": _probe(READY, period=5, failures=2),
        "livenessProbe": _probe(HEALTH, period=15, failures=4),
        "volumeMounts": [
            {"name": "state", "mountPath": STATE},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }


def _probe(path: str, *, period: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period,
        "timeoutSeconds": 3,
        "failureThreshold": failures,
    }


def _service(service: Service) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _meta(service),
        "spec": {
            "type": "ClusterIP",
            "selector": _labels(service),
            "ports": [{"name": "http", "port": PORT, "targetPort": "http"}],
        },
    }


def _policy(service: Service) -> dict[str, Any]:
    """Pods of the same namespace may connect to it; it connects to nothing."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _meta(service),
        "spec": {
            "podSelector": {"matchLabels": _labels(service)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {"from": [{"podSelector": {}}], "ports": [{"protocol": "TCP", "port": PORT}]}
            ],
            "egress": [],
        },
    }


def usage(service: Service) -> list[str]:
    """Returns the shell lines that start the service."""
    image = shell_word(service.image)
    return [
        f"docker build --tag {image} . && docker push {image}",
        f"kubectl apply --filename kubernetes/{service.name}.yaml",
        f"kubectl exec deployment/{service.name} -- kanna keys create --name first",
    ]


TARGET = Target(
    title="Kubernetes",
    summary="Kubernetes: one replica of the image of `docker`, its state on a volume, reachable "
    "from its own namespace only",
    files=files,
    usage=usage,
    needs=("docker",),
)

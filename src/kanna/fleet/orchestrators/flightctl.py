"""Flight Control: a fleet whose rollout goes in batches and stops at a threshold."""

from __future__ import annotations

from typing import Any

from kanna.escaping import yaml_text
from kanna.fleet.orchestrators import _pods
from kanna.fleet.orchestrators.base import (
    PORT,
    RUNTIME_IMAGE,
    SERVER_IN_IMAGE,
    ForeignRollout,
    Orchestrator,
)


def files(rollout: ForeignRollout) -> dict[str, str]:
    """One resource."""
    return {f"{rollout.slug}.yaml": yaml_text(_fleet(rollout), width=120)}


def _fleet(rollout: ForeignRollout) -> dict[str, Any]:
    shares = rollout.shares()
    batches = [
        {"limit": f"{share}%", "successThreshold": _percent(ring.passes)}
        for share, ring in zip(shares[:-1], rollout.rings[:-1], strict=True)
    ]
    policy: dict[str, Any] = {"successThreshold": _percent(rollout.rings[-1].passes)}
    if batches:
        policy |= {"deviceSelection": {"strategy": "BatchSequence", "sequence": batches}}
    return {
        "apiVersion": "flightctl.io/v1beta1",
        "kind": "Fleet",
        "metadata": {"name": rollout.slug},
        "spec": {
            "selector": {"matchLabels": _pods.selector(rollout, {"fleet": "kanna"})},
            "rolloutPolicy": policy,
            "template": {
                "metadata": {"labels": {"fleet": rollout.slug}},
                "spec": {"applications": [_application(rollout)]},
            },
        },
    }


def _percent(share: float) -> str:
    return f"{max(1, round(share * 100))}%"


def _application(rollout: ForeignRollout) -> dict[str, Any]:
    inline = {
        "docker-compose.yaml": yaml_text(_compose(rollout), width=120),
        "selftest.py": rollout.runner,
        "selftest.json": rollout.expected,
    }
    return {
        "name": rollout.slug,
        "appType": "compose",
        "inline": [{"path": path, "content": text} for path, text in inline.items()],
        "volumes": [
            {
                "name": "model",
                "image": {"reference": rollout.image, "pullPolicy": "IfNotPresent"},
            }
        ],
    }


def _compose(rollout: ForeignRollout) -> dict[str, Any]:
    """The server starts when the self-test ended well; else the application is in error."""
    served = ["--model", f"/model/{rollout.model}", "--host", "0.0.0.0", "--port", str(PORT)]  # noqa: S104
    check = ["/bin/sh", "-c", rollout.check("/model", "/selftest", "/tmp")]  # noqa: S108
    test = [f"./selftest.{kind}:/selftest/selftest.{kind}:ro" for kind in ("py", "json")]
    return {
        "services": {
            "selftest": {
                "image": RUNTIME_IMAGE,
                "entrypoint": check,
                "restart": "no",
                "volumes": ["model:/model:ro", *test],
            },
            "server": {
                "image": RUNTIME_IMAGE,
                "entrypoint": [SERVER_IN_IMAGE],
                "command": served,
                "restart": "unless-stopped",
                "depends_on": {"selftest": {"condition": "service_completed_successfully"}},
                "ports": [f"127.0.0.1:{PORT}:{PORT}"],
                "volumes": ["model:/model:ro"],
            },
        },
        "volumes": {"model": {"external": True}},
    }


def usage(rollout: ForeignRollout) -> list[str]:
    """Begin it, see it through."""
    return [
        f"flightctl apply --filename {rollout.slug}.yaml",
        f"flightctl get fleet {rollout.slug} --output yaml",
    ]


ORCHESTRATOR = Orchestrator(
    title="Flight Control",
    needs=("image",),
    files=files,
    usage=usage,
    remarks=(
        "volumes from a registry need podman 5.5 on the devices",
        "a batch has no time to soak; thresholds stand for passes and failures",
    ),
)

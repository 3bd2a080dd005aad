"""Mender: an artefact whose commit is the self-test, a deployment in phases."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from kanna.escaping import json_text, shell_word
from kanna.fleet.orchestrators.base import ForeignRollout, Orchestrator

_DESTINATION = "/var/lib/kanna/model"
_STATE_SCRIPT = "ArtifactCommit_Enter_10_selftest"


def files(rollout: ForeignRollout) -> dict[str, str]:
    """The script that makes the artefact, what it holds but the model, and the deployment."""
    return {
        "make-artifact.sh": _make(rollout),
        f"state-scripts/{_STATE_SCRIPT}": _check(),
        "content/selftest.py": rollout.runner,
        "content/selftest.json": rollout.expected,
        "deployment.json": json_text(_deployment(rollout)) + "\n",
    }


def _artifact(rollout: ForeignRollout) -> str:
    return f"{rollout.slug}-{rollout.version}"


def _make(rollout: ForeignRollout) -> str:
    return (
        "#!/bin/sh\n"
        "# make-artifact.sh MODEL DEVICE_TYPE: writes the file that Mender takes.\n"
        "set -e\n"
        f'cp -- "$1" content/{shell_word(rollout.model)}\n'
        f"echo '{rollout.hashes[rollout.model]}  content/'{shell_word(rollout.model)}"
        " | sha256sum --check --quiet\n"
        f'directory-artifact-gen --artifact-name {_artifact(rollout)} --device-type "$2" \\\n'
        f"  --dest-dir {_DESTINATION} --output-path {_artifact(rollout)}.mender content \\\n"
        f"  -- --script state-scripts/{_STATE_SCRIPT} \\\n"
        f"  --provides kanna.digest:{rollout.digest}\n"
    )


def _check() -> str:
    return (
        "#!/bin/sh\n"
        "# Mender goes back to the model before where this ends with another code than 0.\n"
        f'exec python3 {_DESTINATION}/selftest.py --server "${{LLAMA_SERVER:-llama-server}}" >&2\n'
    )


def _deployment(rollout: ForeignRollout) -> dict[str, Any]:
    """The body of POST /api/management/v1/deployments/deployments."""
    begin, phases = datetime.now(timezone.utc), list[dict[str, Any]]()
    for share, ring in zip(rollout.shares(), rollout.rings, strict=True):
        phases.append({"batch_size": share, "start_ts": begin.isoformat(timespec="seconds")})
        begin += timedelta(seconds=max(ring.soak, 600))
    del phases[0]["start_ts"]  # at once
    del phases[-1]["batch_size"]  # all others
    return {
        "name": f"{rollout.slug} {rollout.version}",
        "artifact_name": _artifact(rollout),
        "retries": 0,
        **({"phases": phases} if len(phases) > 1 else {}),
    }


def usage(rollout: ForeignRollout) -> list[str]:
    """Make the artefact, upload it, begin the deployment."""
    deployments = "$MENDER/api/management/v1/deployments"
    where = f"/deployments/group/{rollout.group}" if rollout.group else "/deployments"
    return [
        f"sh make-artifact.sh {rollout.model} DEVICE_TYPE",
        f"mender-cli artifacts upload {_artifact(rollout)}.mender",
        'curl --fail --header "Authorization: Bearer $TOKEN" --json @deployment.json'
        f" {deployments}{where}",
    ]


ORCHESTRATOR = Orchestrator(
    title="Mender",
    needs=(),
    files=files,
    usage=usage,
    remarks=(
        "phases begin by the clock; Mender opens them whatever the phase before reported",
        "phases and folders as updates need a plan of Mender and an update module that have them",
    ),
)

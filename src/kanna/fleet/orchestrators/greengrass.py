"""AWS IoT Greengrass: a component whose installation is the self-test, a deployment per ring."""

from __future__ import annotations

import re
from typing import Any

from kanna.errors import UsageError
from kanna.escaping import json_text, yaml_text
from kanna.fleet.orchestrators.base import PORT, ForeignRollout, Orchestrator

_GROUP = re.compile(r"arn:[^:]+:iot:[^:]*:[0-9]+:thinggroup/.+")
_HERE = "{artifacts:path}"
_SERVER = "{configuration:/LlamaServer}"


def files(rollout: ForeignRollout) -> dict[str, str]:
    """The recipe, the self-test, and a deployment for the things of each ring."""
    if not _GROUP.fullmatch(rollout.group):
        raise UsageError(
            f"--group {rollout.group!r} is no thing group",
            expected="arn:aws:iot:REGION:ACCOUNT:thinggroup/NAME, of which NAME-ring-1 … are made",
        )
    if not rollout.source.startswith("s3://"):
        raise UsageError(
            f"--source {rollout.source!r} is no place that Greengrass fetches from",
            expected="s3://BUCKET/FOLDER",
        )
    made = {
        "recipe.yaml": yaml_text(_recipe(rollout), width=120),
        "selftest.py": rollout.runner,
        "selftest.json": rollout.expected,
    }
    for number in range(1, len(rollout.rings) + 1):
        made[f"ring-{number}.json"] = json_text(_deployment(rollout, number)) + "\n"
    return made


def _name(rollout: ForeignRollout) -> str:
    return f"kanna.{rollout.slug}"


def _recipe(rollout: ForeignRollout) -> dict[str, Any]:
    place = f"{rollout.source.rstrip('/')}/{rollout.digest}"
    model = f"{_HERE}/{rollout.model}"
    check = f"python3 {_HERE}/selftest.py --server {_SERVER}"
    serve = f"exec {_SERVER} --model {model} --host 127.0.0.1 --port {PORT}"
    return {
        "RecipeFormatVersion": "2020-01-25",
        "ComponentName": _name(rollout),
        "ComponentVersion": rollout.version,
        "ComponentDescription": f"{rollout.title}, {rollout.digest}",
        "ComponentPublisher": "kanna",
        "ComponentConfiguration": {"DefaultConfiguration": {"LlamaServer": "llama-server"}},
        "Manifests": [
            {
                "Platform": {"os": "linux"},
                "Lifecycle": {
                    "Install": {"Script": check, "Timeout": 900},
                    "Run": {"Script": serve},
                },
                "Artifacts": [
                    {
                        "URI": f"{place}/{file}",
                        "Unarchive": "NONE",
                        "Permission": {"Read": "OWNER", "Execute": "NONE"},
                    }
                    for file in (rollout.model, "selftest.py", "selftest.json")
                ],
            }
        ],
    }


def _deployment(rollout: ForeignRollout, number: int) -> dict[str, Any]:
    ring = rollout.rings[number - 1]
    failing = {
        "failureType": "ALL",
        "action": "CANCEL",
        "thresholdPercentage": round(100 * (1 - ring.passes), 1) or 0.1,
        "minNumberOfExecutedThings": max(1, ring.failures + 1),
    }
    return {
        "targetArn": f"{rollout.group}-ring-{number}",
        "deploymentName": f"{rollout.slug} {rollout.version} ring {number}",
        "components": {_name(rollout): {"componentVersion": rollout.version}},
        "deploymentPolicies": {
            "failureHandlingPolicy": "ROLLBACK",
            "componentUpdatePolicy": {"timeoutInSeconds": 60, "action": "NOTIFY_COMPONENTS"},
        },
        "iotJobConfiguration": {
            "abortConfig": {"criteriaList": [failing]},
            "timeoutConfig": {"inProgressTimeoutInMinutes": 60},
        },
    }


def usage(rollout: ForeignRollout) -> list[str]:
    """Upload the files, make the component, deploy it ring by ring."""
    place = f"{rollout.source.rstrip('/')}/{rollout.digest}/"
    lines = [
        f"for file in {rollout.model} selftest.py selftest.json; do aws s3 cp $file {place}; done",
        "aws greengrassv2 create-component-version --inline-recipe fileb://recipe.yaml",
    ]
    lines += [
        f"aws greengrassv2 create-deployment --cli-input-json file://ring-{number}.json"
        for number in range(1, len(rollout.rings) + 1)
    ]
    return lines


ORCHESTRATOR = Orchestrator(
    title="AWS IoT Greengrass",
    needs=("source", "group"),
    files=files,
    usage=usage,
    remarks=(
        "a later ring's deployment is begun by who has seen the one before succeed",
        "Greengrass bounds the size of a component's files: see its quotas",
    ),
)

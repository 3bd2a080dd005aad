"""What the orchestrators publish of their files' schemas, as far as kanna writes them.

Facts of Flight Control's openapi.yaml (v1beta1), of the recipe reference and the API model of
Greengrass (2020-01-25, 2020-11-30), of Azure's fluxConfigurations (2023-05-01) and of Mender's
Management API for deployments, v1. Kubernetes has its own, by kubernetes-validate.
"""

from __future__ import annotations

from typing import Any


def record(needed: str, optional: str = "", **kinds: Any) -> dict[str, Any]:
    """An object with these fields and no others; text where nothing else is said."""
    names = [*needed.split(), *optional.split()]
    return {
        "type": "object",
        "required": needed.split(),
        "properties": {name: kinds.get(name, TEXT) for name in names},
        "additionalProperties": False,
    }


def many(of: Any, least: int = 1) -> dict[str, Any]:
    """A list."""
    return {"type": "array", "items": of, "minItems": least}


def by_name(of: Any) -> dict[str, Any]:
    """An object whose fields are names."""
    return {"type": "object", "additionalProperties": of, "minProperties": 1}


TEXT = {"type": "string", "minLength": 1}
WHOLE = {"type": "integer", "minimum": 0}
LABELS = record("matchLabels", matchLabels=by_name({"type": "string", "maxLength": 63}))
PERCENT = {"type": "string", "pattern": r"^(100|[1-9]?[0-9])%$"}
PULL = {"enum": ["Always", "IfNotPresent", "Never"]}

_BATCH = record("limit", "successThreshold selector", limit=PERCENT, successThreshold=PERCENT)
_SELECTION = record("strategy sequence", strategy={"const": "BatchSequence"}, sequence=many(_BATCH))
_POLICY = record(
    "successThreshold", "deviceSelection", deviceSelection=_SELECTION, successThreshold=PERCENT
)
_VOLUME = record(
    "name image",
    "reclaimPolicy",
    image=record("reference", "pullPolicy", pullPolicy=PULL),
)
_APPLICATION = record(
    "name appType inline volumes",
    appType={"enum": ["compose", "quadlet"]},
    inline=many(record("path content", "contentEncoding")),
    volumes=many(_VOLUME),
)
_TEMPLATE = record(
    "spec",
    "metadata",
    metadata=record("labels", labels=by_name(TEXT)),
    spec=record("applications", applications=many(_APPLICATION)),
)
FLIGHTCTL = record(
    "apiVersion kind metadata spec",
    apiVersion={"enum": ["v1beta1", "flightctl.io/v1beta1"]},
    kind={"const": "Fleet"},
    metadata=record("name", name={"type": "string", "maxLength": 253}),
    spec=record(
        "template", "selector rolloutPolicy", selector=LABELS, rolloutPolicy=_POLICY,
        template=_TEMPLATE,
    ),
)  # fmt: skip

_STEP = record("Script", "Timeout RequiresPrivilege", Timeout=WHOLE)
_ARTIFACT = record(
    "URI",
    "Unarchive Permission",
    URI={"type": "string", "pattern": "^s3://[^/]+/.+"},
    Unarchive={"enum": ["NONE", "ZIP"]},
    Permission=record(
        "Read Execute",
        Read={"enum": ["NONE", "OWNER", "ALL"]},
        Execute={"enum": ["NONE", "OWNER", "ALL"]},
    ),
)
RECIPE = record(
    "RecipeFormatVersion ComponentName ComponentVersion Manifests",
    "ComponentDescription ComponentPublisher ComponentConfiguration ComponentType",
    RecipeFormatVersion={"const": "2020-01-25"},
    ComponentName={"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,128}$"},
    ComponentVersion={"type": "string", "pattern": r"^[0-9]+\.[0-9]+\.[0-9]+$"},
    ComponentConfiguration=record("DefaultConfiguration", DefaultConfiguration={"type": "object"}),
    Manifests=many(
        record(
            "Lifecycle Artifacts",
            "Platform",
            Platform=record("os", os={"enum": ["linux", "windows", "all", "*"]}),
            Lifecycle=record("Run", "Install Startup Shutdown", Run=_STEP, Install=_STEP),
            Artifacts=many(_ARTIFACT),
        )
    ),
)
_ABORT = record(
    "failureType action thresholdPercentage minNumberOfExecutedThings",
    failureType={"enum": ["FAILED", "REJECTED", "TIMED_OUT", "ALL"]},
    action={"const": "CANCEL"},
    thresholdPercentage={"type": "number", "exclusiveMinimum": 0, "maximum": 100},
    minNumberOfExecutedThings={"type": "integer", "minimum": 1},
)
GREENGRASS = record(
    "targetArn components",
    "deploymentName deploymentPolicies iotJobConfiguration",
    targetArn={"type": "string", "pattern": "^arn:[^:]*:iot:[^:]*:[0-9]+:(thing|thinggroup)/.+"},
    deploymentName={"type": "string", "minLength": 1, "maxLength": 256},
    components=by_name(record("componentVersion")),
    deploymentPolicies=record(
        "failureHandlingPolicy componentUpdatePolicy",
        failureHandlingPolicy={"enum": ["ROLLBACK", "DO_NOTHING"]},
        componentUpdatePolicy=record(
            "timeoutInSeconds action",
            timeoutInSeconds=WHOLE,
            action={"enum": ["NOTIFY_COMPONENTS", "SKIP_NOTIFY_COMPONENTS"]},
        ),
    ),
    iotJobConfiguration=record(
        "abortConfig timeoutConfig",
        abortConfig=record("criteriaList", criteriaList=many(_ABORT)),
        timeoutConfig=record("inProgressTimeoutInMinutes", inProgressTimeoutInMinutes=WHOLE),
    ),
)

_KUSTOMIZATION = record(
    "path dependsOn timeoutInSeconds syncIntervalInSeconds prune wait",
    dependsOn=many(TEXT, 0),
    timeoutInSeconds=WHOLE,
    syncIntervalInSeconds=WHOLE,
    prune={"type": "boolean"},
    wait={"type": "boolean"},
)
_FLUX = record(
    "scope namespace sourceKind gitRepository kustomizations",
    scope={"enum": ["cluster", "namespace"]},
    sourceKind={"enum": ["GitRepository", "Bucket", "AzureBlob"]},
    gitRepository=record(
        "url repositoryRef",
        "syncIntervalInSeconds",
        repositoryRef=record("branch"),
        syncIntervalInSeconds=WHOLE,
    ),
    kustomizations=by_name(_KUSTOMIZATION),
)
AZURE = record(
    "$schema contentVersion resources",
    "parameters",
    parameters=by_name(record("type")),
    resources=many(
        record(
            "type apiVersion name scope properties",
            type={"const": "Microsoft.KubernetesConfiguration/fluxConfigurations"},
            apiVersion={"const": "2023-05-01"},
            properties=_FLUX,
        )
    ),
)

_PHASE = record(
    "",
    "batch_size start_ts",
    batch_size={"type": "integer", "minimum": 1, "maximum": 100},
    start_ts={"type": "string", "format": "date-time"},
)
MENDER = record(
    "name artifact_name",
    "devices phases retries",
    phases=many(_PHASE),
    retries={"type": "integer", "minimum": 0, "maximum": 100},
)

"""`package` as a step: what deploys an artefact."""

from __future__ import annotations

from collections.abc import Mapping

from kanna.recipes.document import Value
from kanna.recipes.verbs.base import (
    FOLDER,
    KEY,
    MODEL,
    WHEEL,
    StepFile,
    StepVerb,
    at,
    kinds,
)


def _check(options: Mapping[str, Value]) -> None:
    from kanna._util.arguments import names
    from kanna.packaging import targets

    wanted = options.get("to") or "docker"
    for name in names(wanted if isinstance(wanted, str) else map(str, _listed(wanted))):
        targets.get(name)


def _listed(value: Value) -> list[Value]:
    return value if isinstance(value, list) else [value]


VERB = StepVerb(
    inputs={
        "artefact": kinds(MODEL),
        "mmproj": kinds(MODEL),
        "variant": kinds(MODEL),
        "wheel": kinds(WHEEL),
        "sign_key": kinds(KEY),
    },
    outputs={"folder": StepFile(kind=FOLDER, path=at("folder"), about="the package")},
    figures={"sha256": at("sha256"), "memory_bytes": at("resources", "memory_bytes")},
    out=lambda step, _: step,
    check=_check,
)

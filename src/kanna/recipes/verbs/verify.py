"""`verify` as a step: the gate. The step fails where the artefact does."""

from __future__ import annotations

from kanna.recipes.verbs.base import (
    ADAPTER,
    GATE,
    MODEL,
    TEXT,
    StepFile,
    StepVerb,
    at,
    kinds,
    loaded,
)

VERB = StepVerb(
    inputs={
        "source": kinds(MODEL),
        "artefact": kinds(MODEL, ADAPTER),
        "adapter": kinds(ADAPTER),
        "beside": kinds(MODEL),
        "data": kinds(TEXT),
        "mmproj": kinds(MODEL),
    },
    outputs={"report": StepFile(kind=GATE, about="the checks, and hashes of what they are about")},
    figures={
        "gate": at("status"),
        "retention": at("retention", "share"),
        "task_retention": at("tasks", 0, "share"),
    },
    out=lambda step, _: f"{step}.gate.json",
    writes="gate",
    own=frozenset({"gate"}),
    runs=True,
    memory=loaded(5),
)

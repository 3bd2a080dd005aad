"""`verify` as a step: the gate. The step fails where the artefact does."""

from __future__ import annotations

from kanna.recipes.verbs.base import ADAPTER, MODEL, TEXT, StepVerb, at, kinds

VERB = StepVerb(
    inputs={
        "source": kinds(MODEL),
        "artefact": kinds(MODEL, ADAPTER),
        "adapter": kinds(ADAPTER),
        "data": kinds(TEXT),
        "mmproj": kinds(MODEL),
    },
    figures={"gate": at("status")},
    own=frozenset({"gate"}),
    runs=True,
)

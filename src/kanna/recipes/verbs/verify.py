"""`verify` as a step: the gate. The step fails where the artefact does."""

from __future__ import annotations

from kanna.recipes.verbs.base import MODEL, StepVerb, at, kinds

VERB = StepVerb(
    inputs={"source": kinds(MODEL), "artefact": kinds(MODEL)},
    figures={"gate": at("status")},
)

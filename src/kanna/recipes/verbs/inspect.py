"""`inspect` as a step: what a source or an artefact is."""

from __future__ import annotations

from kanna.recipes.verbs.base import MODEL, StepVerb, at, kinds

VERB = StepVerb(
    inputs={"source": kinds(MODEL)},
    figures={
        name: at(name)
        for name in (
            "family",
            "parameters",
            "bytes",
            "bits_per_weight",
            "precision_class",
            "license",
            "known_family",
        )
    },
)

"""`fit` as a step: which presets fit into memory. The step fails where none does."""

from __future__ import annotations

from kanna.recipes.verbs.base import MODEL, StepVerb, at, kinds

VERB = StepVerb(
    inputs={"source": kinds(MODEL), "speeds": kinds()},
    figures={"recommended": at("recommended"), "memory": at("memory")},
    measures=True,
)

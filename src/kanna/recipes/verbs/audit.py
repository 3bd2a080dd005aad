"""`audit` as a step: source, plan, gate, signature, licence. It fails where one does not hold."""

from __future__ import annotations

from kanna.recipes.verbs.base import ADAPTER, FOLDER, GATE, KEY, MODEL, StepVerb, at, kinds

VERB = StepVerb(
    inputs={
        "artefact": kinds(MODEL, ADAPTER, FOLDER),
        "source": kinds(MODEL),
        "gate": kinds(GATE),
        "key": kinds(KEY),
    },
    figures={"status": at("status"), "licence": at("licence")},
    # A link may be missing, as the signature of what is packaged later: conditions can ask for it.
    holds=lambda result: at("status")(result) != "broken",
)

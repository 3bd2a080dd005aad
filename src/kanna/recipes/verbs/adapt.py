"""`adapt` as a step: an adapter, trained; without a lower held-out loss, or its gate, it fails."""

from __future__ import annotations

from kanna.plan.gguf_mixes import MIXES
from kanna.recipes.verbs.base import (
    ADAPTER,
    MODEL,
    PLAN,
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
        "data": kinds(TEXT),
        "teacher": kinds(MODEL),
        "for_plan": kinds(PLAN),
        "draft": kinds(MODEL),
    },
    outputs={"adapter": StepFile(kind=ADAPTER, path=at("path"), about="for merge")},
    figures={
        name: at(name)
        for name in ("base_loss", "tuned_loss", "steps", "best_step", "stopped", "tokens")
    }
    | {
        "learning_rate": at("settings", "learning_rate"),
        "teacher_kl": at("tuned_figures", "teacher_kl"),
        "gate": at("gate", "status"),
        "retention": at("gate", "share"),
        "acceptance": at("draft", "tuned", "acceptance"),
    },
    out=lambda step, _: step,
    words=frozenset({"mtp", *(name for mix in MIXES for name in (mix.name, mix.name.lower()))}),
    own=frozenset({"overwrite"}),
    memory=loaded(8),
)

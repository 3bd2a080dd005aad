"""What drafts for a tuned model: its own head for further tokens, or a small model beside it.

Both guess what the model writes as it was before training, so that a fine-tune makes their guesses
worse, and speculative decoding slow. How much is counted on held-out text, before and after; both
can be trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kanna.benchmark.guesses import OWN_HEAD

DRAFT_MODEL = "draft-model"
"""Beside the adapter: a draft model that was trained on."""
_FELL = 0.02
"""A fall of the share of guesses that the model takes, from which on a note says so."""


def facts(outcome: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What came of it as a line for people; none where nothing was counted.

    Args:
        outcome: `DraftOutcome.to_dict()`, or {}.
    """
    if not outcome:
        return []
    base, tuned = outcome["base"], outcome["tuned"]
    words = (
        f"{base['acceptance']:.1%} before, {tuned['acceptance']:.1%} after "
        f"({base['tokens_per_step']:.2f} and {tuned['tokens_per_step']:.2f} tokens a step)"
    )
    if retrained := outcome["retrained"]:
        kept = "" if outcome["kept"] else ", not kept"
        words += f"; retrained {retrained['acceptance']:.1%}{kept}"
    if counted := outcome["runtime"]:
        before, after = (counted[side]["acceptance"] for side in ("tuned", "retrained"))
        words += f"; in llama.cpp {before:.1%}, retrained {after:.1%}"
    return [(f"Guesses of {outcome['guesser']} taken", words)]


def notes(outcome: Mapping[str, Any]) -> list[str]:
    """What a user must know of it, in sentences without a full stop.

    Args:
        outcome: As of `facts`.
    """
    if not outcome:
        return []
    base, tuned = (outcome[side]["acceptance"] for side in ("base", "tuned"))
    if outcome["retrained"]:
        return _retraining(outcome)
    if base - tuned < _FELL:
        return []
    return [
        f"the tuned model takes {tuned:.1%} of the guesses of {outcome['guesser']}, the base took "
        f"{base:.1%}: speculative decoding is slower. --retrain-draft trains it on"
    ]


def _retraining(outcome: Mapping[str, Any]) -> list[str]:
    counted = outcome["runtime"] or outcome
    before, after = (counted[side]["acceptance"] for side in ("tuned", "retrained"))
    own = outcome["guesser"] == OWN_HEAD
    name = "the head for further tokens" if own else f"the draft model {outcome['guesser']}"
    sentence = (
        f"{name} was trained on for {outcome['steps']} steps: the tuned model takes {after:.1%} of "
        f"its guesses, {before:.1%} before"
    )
    if not outcome["kept"]:
        return [f"{sentence}; it is not kept"]
    if own:
        return [f"{sentence}; kanna merge, and optimize --adapter, put it into the file"]
    return [f"{sentence}; it is in the folder {DRAFT_MODEL} beside the adapter"]

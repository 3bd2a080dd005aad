"""The verbs that can be steps, one a file: each exports VERB."""

from __future__ import annotations

from kanna._util import plugins
from kanna.recipes.verbs.base import StepVerb


def names() -> tuple[str, ...]:
    """Names of the verbs that a recipe can name."""
    return plugins.names(__name__, "VERB")


def get(name: str) -> StepVerb:
    """The verb of that name; raises UnsupportedError naming the known ones."""
    return plugins.load(__name__, name, "VERB")

"""A head that gives a question and a text one score, as cross-encoders have it."""

from __future__ import annotations

from kanna.families._config import Config
from kanna.families.base import Block

_CLASS = "ForSequenceClassification"
NAMES = {"classifier.dense": "cls", "classifier.out_proj": "cls.output"}


def has_head(c: Config) -> bool:
    """Whether the class in config.json has such a head."""
    named = c.get("architectures") or ()
    return any(isinstance(name, str) and name.endswith(_CLASS) for name in named)


def _names(c: Config) -> dict[str, str]:
    return NAMES if has_head(c) else {}


RANKING = Block(
    more_names=_names,
    shapes={"cls": ("hidden", "hidden"), "cls.output": ("score", "hidden")},
    sizes=lambda _: {"score": 1},
)

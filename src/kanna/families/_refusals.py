"""What cannot be made of models of some families here, and why."""

from __future__ import annotations

from collections.abc import Mapping

from kanna.errors import UnsupportedError
from kanna.families._registry import family_of_model
from kanna.model import Model


def require(model: Model, refused: Mapping[str, str], what: str) -> None:
    """Raise UnsupportedError where `refused` names the family of a model.

    Args:
        model: The model.
        refused: Why not, by family.
        what: What is to be made of it.
    """
    name, family = family_of_model(model)
    if (reason := refused.get(name)) is not None:
        raise UnsupportedError(
            f"{family.architectures[0]} has no {what} here: {reason}",
            expected="GGUF or safetensors, which every family has",
            todo="write a GGUF: --format gguf",
        )

"""What cannot be made of models of some families here, and why."""

from __future__ import annotations

from collections.abc import Mapping

from kanna.errors import UnsupportedError
from kanna.families._registry import family_of_arch
from kanna.model import Model


def require(model: Model, refused: Mapping[str, str], what: str) -> None:
    """Raise UnsupportedError where `refused` names the architecture of a model.

    Args:
        model: The model.
        refused: Why not, by GGUF architecture.
        what: What is to be made of it.
    """
    reason = refused.get(model.family)
    if reason is not None:
        _, family = family_of_arch(model.family)
        raise UnsupportedError(
            f"{family.architectures[0]} has no {what} here: {reason}",
            expected="GGUF or safetensors, which every family has",
            todo="write a GGUF: --format gguf",
        )

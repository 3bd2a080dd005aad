"""What cannot be made of a family's models here, and why."""

from __future__ import annotations

from kanna.errors import UnsupportedError
from kanna.families._registry import family_of_arch
from kanna.model import Model


def require(model: Model, purpose: str) -> None:
    """Raise UnsupportedError where a family's `refused` names `purpose`.

    Args:
        model: The model.
        purpose: A format, or `calibration`.
    """
    try:
        _, family = family_of_arch(model.family)
    except UnsupportedError:  # the way to Hugging Face says so itself
        return
    reason = family.refused.get(purpose)
    if reason is not None:
        raise UnsupportedError(
            f"{family.architectures[0]} has no {purpose} here: {reason}",
            expected="GGUF or safetensors, which every family has",
            todo="write a GGUF: --format gguf",
        )

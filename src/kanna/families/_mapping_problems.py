"""What can be wrong with the tensors of a source, in words."""

from __future__ import annotations

from kanna.families.base import Family, Problem
from kanna.model import Tensor


def ignored_bias(name: str, flag: str) -> Problem:
    """A bias that the config does not know."""
    return Problem(
        f"{name} is in the weights, and config.json has no {flag}: transformers leaves it out",
        f"{flag} true, or no such tensor",
        f"set {flag} to true in config.json if the model was trained with it",
    )


def unknown(name: str, tensor: Tensor, family: Family) -> Problem:
    """A tensor that the family has no place for."""
    return Problem(
        f"tensor {name} {list(tensor.shape)} has no place in {family.arch}",
        todo="the model differs from its class: a fork, an adapter or a part of a pipeline",
    )


def no_floats(name: str, dtype: str) -> Problem:
    """A tensor whose values are no numbers of a matrix."""
    return Problem(
        f"{name} holds {dtype} values",
        "a floating type: f16, bf16, f32 or f64",
        "use the 16-bit release of this model, or store the tensor in a floating type",
    )


def misshapen(
    name: str, gguf_name: str, shape: tuple[int, ...], expected: tuple[int, ...]
) -> Problem:
    """A tensor of another shape than the config gives it."""
    if gguf_name in ("token_embd.weight", "output.weight"):
        rows = shape[0] if shape else 0
        return Problem(
            f"{name} has {rows} rows, config.json says vocab_size {expected[0]}",
            "as many embedding rows as vocab_size",
            "set vocab_size in config.json to the rows there are (or resize the embeddings and "
            "save the model again)",
        )
    return Problem(
        f"{name} has shape {list(shape)}",
        f"{list(expected)} from config.json",
        "fetch the model again",
    )

"""How many weights of each tensor a token is multiplied with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kanna.model import Model, Tensor, num_weights
from kanna.plan import roles


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorWork:
    """What one token has to do with a tensor.

    Attributes:
        share: Of its weights that a token is multiplied with: all, or the experts it is sent to.
        weights: How many these are.
        head: Whether they are multiplied for the last token of a prompt alone.
        shape: Rows and columns of a matrix, as in 4096x1024; "" of others, and where unknown.
    """

    share: float
    weights: float
    head: bool
    shape: str = ""


def token_work(
    model: Model, tensors: Iterable[tuple[str, Tensor]] | None = None
) -> dict[str, TensorWork]:
    """The work of every tensor that is multiplied: all but an embedding that is no head.

    Args:
        model: With roles and metadata.
        tensors: Those to look at, with their names; None: all of the model.
    """
    tied = "output.weight" not in model.tensors
    experts = model.whole("{arch}.expert_count", 0)
    used = model.whole("{arch}.expert_used_count", 0)
    work: dict[str, TensorWork] = {}
    for name, tensor in model.tensors.items() if tensors is None else tensors:
        embedding = "token_embd" in name or "embed_tokens" in name
        if not tied and embedding:
            continue
        share = used / experts if experts and len(tensor.shape) == 3 else 1.0
        head = embedding or name in ("output.weight", "lm_head.weight")
        sides = "x".join(map(str, tensor.shape[-2:])) if len(tensor.shape) > 1 else ""
        work[name] = TensorWork(
            share=share, weights=num_weights(tensor) * share, head=head, shape=sides
        )
    return work


def matrix_work(model: Model) -> dict[str, TensorWork]:
    """The work of every matrix whose encoding a plan decides."""
    work = token_work(model)
    return {
        name: work[name]
        for name, tensor in model.tensors.items()
        if name in work and roles.quantizable(tensor) and len(tensor.shape) in (2, 3)
    }

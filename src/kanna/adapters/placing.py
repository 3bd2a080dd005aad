"""Which tensors of a base model an adapter changes; whatever does not fit is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from kanna.adapters.base import LoraAdapter, LowRank, NewRows
from kanna.errors import SourceError
from kanna.families import text_name
from kanna.model import Tensor
from kanna.sources import Source

EMBEDDING, HEAD = "model.embed_tokens", "lm_head"
_LAYER = re.compile(r"\.layers\.(\d+)\.")


@dataclass(slots=True)
class Change:
    """What one adapter does to one tensor; each with its weight.

    Attributes:
        low_rank: Its low-rank changes.
        added: Vectors that are added, with their factors.
        replaced: All of its values.
        rows: Some of its rows.
    """

    low_rank: list[tuple[LowRank, float]] = field(default_factory=list[tuple[LowRank, float]])
    added: list[tuple[Tensor, float]] = field(default_factory=list[tuple[Tensor, float]])
    replaced: Tensor | None = None
    rows: list[NewRows] = field(default_factory=list[NewRows])


def place(source: Source, adapters: list[tuple[LoraAdapter, float]]) -> dict[str, Change]:
    """Name of a tensor as `text_name` gives it → what is done to it.

    Args:
        source: The base model.
        adapters: Adapters with their weights.

    Raises:
        SourceError: An adapter changes what the model has not, or not in this shape.
    """
    tensors = {text_name(name): tensor for name, tensor in source.tensors.items()}
    changes: dict[str, Change] = {}
    for adapter, weight in adapters:
        for name, tensor in _replaced(adapter, tensors).items():
            change = changes.setdefault(name, Change())
            if change.replaced is not None:
                raise _both(adapter, name)
            if name not in adapter.draft_head:  # which only guesses what the model says
                _refuse_weight(adapter, name, weight)
            change.replaced = tensor
        for module, rows in adapter.rows.items():
            name = _known(adapter, f"{text_name(module)}.weight", tensors)
            _fits_rows(adapter, name, rows, tensors[name])
            _refuse_weight(adapter, name, weight)
            changes.setdefault(name, Change()).rows.append(rows)
        for module, low_rank in adapter.low_rank.items():
            name = _known(adapter, f"{text_name(module)}.weight", tensors)
            change = changes.setdefault(name, Change())
            _fits(adapter, name, low_rank, change.replaced or tensors[name])
            _refuse_mixed_dora(adapter, name, [*change.low_rank, (low_rank, weight)])
            change.low_rank.append((low_rank, weight))
        for module, (bias, scale) in adapter.bias.items():
            name = _known(adapter, f"{text_name(module)}.bias", tensors)
            if bias.shape != tensors[name].shape:
                raise _misshapen(adapter, name, bias.shape, tensors[name].shape)
            changes.setdefault(name, Change()).added.append((bias, scale * weight))
    return changes


def _replaced(adapter: LoraAdapter, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that are given whole; an embedding may have grown by new tokens."""
    placed: dict[str, Tensor] = {}
    for given, tensor in (adapter.replaced | adapter.draft_head).items():
        name = _known(adapter, text_name(given), tensors)
        base = tensors[name].shape
        grown = (
            name in (f"{EMBEDDING}.weight", f"{HEAD}.weight")
            and len(tensor.shape) == 2
            and tensor.shape[1:] == base[1:]
        )
        if tensor.shape != base and not grown:
            raise _misshapen(adapter, name, tensor.shape, base)
        placed[name] = tensor
    return placed


def _known(adapter: LoraAdapter, name: str, tensors: Mapping[str, Tensor]) -> str:
    """The name, when the model has such a tensor; SourceError when not.

    A head that is the embedding counts as one: `tensors` has it then.
    """
    if name in tensors:
        return name
    layers = {int(m[1]) for n in tensors if (m := _LAYER.search(n))}
    layer = _LAYER.search(name)
    if layer and layers and int(layer[1]) > max(layers):
        raise SourceError(
            f"{adapter.given} changes layer {layer[1]}, the model has {max(layers) + 1} layers",
            expected=f"the base model that it was trained on{_named(adapter)}",
            todo="give that model",
        )
    raise SourceError(
        f"{adapter.given} changes {name}, which the model has not",
        expected=f"the base model that it was trained on{_named(adapter)}",
        todo="give that model",
    )


def _named(adapter: LoraAdapter) -> str:
    return f", {adapter.base}" if adapter.base else ""


def _misshapen(
    adapter: LoraAdapter, name: str, shape: tuple[int, ...], base: tuple[int, ...]
) -> SourceError:
    return SourceError(
        f"{adapter.given} has {name} of shape {list(shape)}, the model {list(base)}",
        expected=f"the base model that it was trained on{_named(adapter)}",
        todo="give that model",
    )


def _both(adapter: LoraAdapter, name: str) -> SourceError:
    return SourceError(
        f"{adapter.given} and an adapter before it both replace {name} as a whole",
        expected="at most one of them",
        todo="merge one adapter",
    )


def _refuse_weight(adapter: LoraAdapter, name: str, weight: float) -> None:
    if weight != 1.0:
        raise SourceError(
            f"{adapter.given} holds values of {name} themselves, and has the weight {weight:g}",
            expected="the weight 1",
            todo="leave the weight out",
        )


def _fits(adapter: LoraAdapter, name: str, change: LowRank, base: Tensor) -> None:
    if base.shape != change.shape:
        raise _misshapen(adapter, name, change.shape, base.shape)
    if change.magnitude is not None and change.magnitude.shape not in (
        (change.shape[0],),
        (change.shape[0], 1),
        (1, change.shape[0]),
    ):
        raise _misshapen(adapter, f"magnitude of {name}", change.magnitude.shape, base.shape[:1])


def _fits_rows(adapter: LoraAdapter, name: str, rows: NewRows, base: Tensor) -> None:
    if rows.values.shape[1:] != base.shape[1:] or max(rows.places, default=0) >= base.shape[0]:
        raise _misshapen(adapter, f"new rows of {name}", rows.values.shape, base.shape)


def _refuse_mixed_dora(adapter: LoraAdapter, name: str, every: list[tuple[LowRank, float]]) -> None:
    """DoRA scales whole rows, so that it neither adds up with others nor takes a weight."""
    if any(c.magnitude is not None for c, _ in every) and (len(every) > 1 or every[0][1] != 1.0):
        raise SourceError(
            f"{adapter.given} has DoRA on {name}, beside another adapter or with a weight",
            expected="DoRA by itself, with the weight 1",
            todo="merge it alone",
        )

"""What differs between a folder of mlx-lm's and one of Hugging Face's, in one family."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kanna.formats.views import Refolded, Shifted
from kanna.model import Tensor

_BODY = "model."


def _computes(_: Mapping[str, Any]) -> str:
    return ""


def _reads_all(_: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class MLXNames:
    """What differs in one family.

    Attributes:
        stacks: Ends of names: of a stack between the two forms, and of mlx-lm's.
        halves: End of the name of a matrix → ends of the names of its upper and lower half, which
            are two matrices between the forms.
        convolutions: Ends of the names of convolutions over time.
        offset: What is added to norms.
        norms: Ends of the names of norms that have it.
        prefix: Before every name.
        body: What mlx-lm calls the module of all layers; "": as Hugging Face does, `model`.
        dropped: Starts of names that mlx-lm does not read.
        wrapped: `model_type` of the config that has the model's as its text part; "" where mlx-lm
            takes the model's own.
        needed: Keys of config.json that mlx-lm wants and models may leave out, with the key that
            has their value, or the value.
        respelled: config.json → the keys that mlx-lm reads in its own spelling.
        folded: Weights hold the multipliers of the config, which are 1.
        wide: Ends of the names of vectors that stay float32.
        apart: Ends of the names of stacks between the two forms that it has as a module for each.
        unread: config.json → names and shapes of tensors that it loads and never reads, and that
            models may leave out.
        refuses: config.json → what mlx-lm computes otherwise of it; "": nothing.
    """

    stacks: Sequence[tuple[str, str]] = ()
    halves: Mapping[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    convolutions: tuple[str, ...] = ()
    offset: float = 0.0
    norms: tuple[str, ...] = ()
    prefix: str = ""
    body: str = ""
    dropped: tuple[str, ...] = ()
    wrapped: str = ""
    needed: Mapping[str, Any] = field(default_factory=dict[str, Any])
    respelled: Callable[[Mapping[str, Any]], dict[str, Any]] = dict
    folded: bool = False
    wide: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    unread: Callable[[Mapping[str, Any]], dict[str, tuple[int, ...]]] = _reads_all
    refuses: Callable[[Mapping[str, Any]], str] = _computes

    def config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """config.json as mlx-lm reads it."""
        filled = {
            key: config.get(value) if isinstance(value, str) else value
            for key, value in self.needed.items()
        }
        config = self.respelled({**filled, **config})
        if not self.wrapped:
            return dict(config)
        outer = {k: config[k] for k in ("architectures", "tie_word_embeddings") if k in config}
        return {**outer, "model_type": self.wrapped, "text_config": dict(config)}

    def name(self, name: str) -> str | None:
        """mlx-lm's name of a tensor; None where it does not read it."""
        if name.startswith(self.dropped or ("\0",)):
            return None
        for theirs, own in self.stacks:
            if name.endswith("." + theirs):
                name = name.removesuffix(theirs) + own
                break
        if self.body and name.startswith(_BODY):
            name = f"{self.body}.{name.removeprefix(_BODY)}"
        return self.prefix + name

    def values(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor of Hugging Face's as mlx-lm stores it, under Hugging Face's name."""
        if name.endswith(self.convolutions or ("\0",)) and len(tensor.shape) == 3:
            channels, _, kernel = tensor.shape
            return Refolded(name, tensor, (channels, kernel, 1))
        if self.offset and name.endswith(self.norms):
            return Shifted(name, tensor, self.offset)
        return tensor

    def back(self, name: str, tensor: Tensor) -> tuple[str, Tensor]:
        """A tensor of a folder under the name, and with the values, that Hugging Face has."""
        name = name.removeprefix(self.prefix)
        if self.body and name.startswith(f"{self.body}."):
            name = _BODY + name.removeprefix(f"{self.body}.")
        for theirs, own in self.stacks:
            if name.endswith("." + own):
                name = name.removesuffix(own) + theirs
                break
        if name.endswith(self.convolutions or ("\0",)) and len(tensor.shape) == 3:
            channels, kernel, _ = tensor.shape
            return name, Refolded(name, tensor, (channels, 1, kernel))
        if self.offset and name.endswith(self.norms):
            return name, Shifted(name, tensor, -self.offset)
        return name, tensor


def stacks(
    module: str, fused: str = "gate_up_proj", *, down: str = "down_proj", own: str = "switch_mlp"
) -> tuple[tuple[str, str], ...]:
    """Stacks of one spelling.

    Args:
        module: Where Hugging Face has the experts.
        fused: Its tensor of all gates and ups.
        down: Its tensor of all downs.
        own: What mlx-lm calls the module of the stacks.
    """
    before, dot, last = f"{module}.{fused}".rpartition(".")
    parent = module.rpartition(".")[0] if own.startswith("switch_mlp") else module
    at = f"{parent}.{own}"
    return (
        (f"{before}{dot}gate_of_{last}", f"{at}.gate_proj.weight"),
        (f"{before}{dot}up_of_{last}", f"{at}.up_proj.weight"),
        (f"{module}.{down}", f"{at}.down_proj.weight"),
    )

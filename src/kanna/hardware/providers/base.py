"""What is known of an execution provider of onnxruntime, and where each figure comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kanna.hardware.figures import Figure

NBITS = ("com.microsoft.MatMulNBits", "com.microsoft.GatherBlockQuantized", "com.microsoft.QMoE")
"""Operators whose weights have few bits in groups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderOperators:
    """What a provider takes.

    Attributes:
        types: Element types of what an operator reads, or for QuantizeLinear gives, by its name,
            with `com.microsoft.` before those of onnxruntime; None: any.
        basis: One of `kanna.hardware.figures.BASES`.
        source: Where the table comes from.
    """

    types: Mapping[str, frozenset[str] | None]
    basis: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A package that brings a provider as a library of its own.

    Attributes:
        module: To import; it has get_library_path and get_ep_name.
        paths: Options of the provider that a function of the module gives, by name.
    """

    module: str
    paths: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderProfile:
    """An execution provider.

    Attributes:
        name: As `--provider` takes it.
        title: What it computes on.
        provider: As onnxruntime calls it.
        genai: As genai_config.json calls it.
        device: cpu, gpu or npu, as a model package says it.
        package: What is installed to have it.
        plugin: Where that is a library beside onnxruntime; None: it is part of onnxruntime.
        options: Of the provider.
        checked: The day on which the profile was last held to its sources, such as 2026-11-30.
        opset: Newest opset of a graph.
        static_shapes: Whether every shape of the graph must be known.
        layout: Of pictures, such as NHWC; `any` where none matters.
        bits: Of weights in groups (MatMulNBits); None: it takes none.
        block_sizes: Of those groups.
        accuracy_levels: accuracy_level of a node that it heeds; None: not known.
        operators: What it takes.
    """

    name: str
    title: str
    provider: str
    genai: str
    device: str
    package: str
    plugin: Plugin | None = None
    options: Mapping[str, str] = field(default_factory=dict[str, str])
    checked: str
    opset: Figure[int]
    static_shapes: Figure[bool]
    layout: Figure[str]
    bits: Figure[list[int]] | None = None
    block_sizes: Figure[list[int]] | None = None
    accuracy_levels: Figure[list[int]] | None = None
    operators: ProviderOperators

    @property
    def takes_groups(self) -> bool:
        """Whether weights of few bits in groups are multiplied."""
        return "com.microsoft.MatMulNBits" in self.operators.types

    @property
    def table(self) -> str:
        """What messages call its table of operators."""
        return f"{self.provider}'s {self.operators.basis} table of {self.checked}"

    def multiplies(self, bits: int, block_size: int) -> bool:
        """Whether weights of so many bits in groups of that size are multiplied."""
        return (
            self.takes_groups
            and (self.bits is None or bits in self.bits.value)
            and (self.block_sizes is None or block_size in self.block_sizes.value)
        )

    def figures(self) -> dict[str, Figure[Any]]:
        """Every figure of the profile by its place in it."""
        places = ("opset", "static_shapes", "layout", "bits", "block_sizes", "accuracy_levels")
        named = {place: getattr(self, place) for place in places}
        return {place: figure for place, figure in named.items() if figure is not None}

"""A figure of a profile, with where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

BASES = ("published", "measured", "derived", "assumed")
"""How a figure is known: by its maker, by somebody's measurement on that device, by arithmetic from
figures of another one, or not at all."""


@dataclass(frozen=True, slots=True)
class Figure(Generic[T]):
    """A figure and where it comes from.

    Attributes:
        value: In bytes, bytes per second, or as its place says.
        basis: One of BASES.
        source: An address, or how it was arrived at.
    """

    value: T
    basis: str
    source: str

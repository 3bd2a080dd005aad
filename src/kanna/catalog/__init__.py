"""Components: whatever a recipe, a plan or an option can name.

Each file beside this one is a kind of them.

What is told of a component is read from its own code: summaries from docstrings, options from
signatures and fields.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from kanna._util import plugins
from kanna.catalog.base import Component, Kind, Option, first, prose
from kanna.errors import UnsupportedError

__all__ = ["Component", "Components", "Listing", "Option", "components", "kinds"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The components of a kind. summary: what the kind is; about: the rest of it."""

    kind: str
    summary: str
    about: str
    components: list[Component]


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """What was found. whole: whether components are to be shown in full."""

    kinds: list[Listing]
    whole: bool = False

    @property
    def count(self) -> int:
        return sum(len(k.components) for k in self.kinds)

    def to_dict(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "whole": self.whole,
            "kinds": [
                {
                    "kind": k.kind,
                    "summary": k.summary,
                    "about": k.about,
                    "components": [c.to_dict() for c in k.components],
                }
                for k in self.kinds
            ],
        }


def kinds() -> tuple[str, ...]:
    """Names of every kind of component."""
    return plugins.names(__name__, "KIND")


def components(kind: str | None = None, name: str | None = None) -> Components:
    """What can be named: every kind, one kind, or one component of it.

    `kind`

    Raises UnsupportedError naming what comes close.

    Args:
        kind: One of `kinds()`, or, alone, the name of a component of any kind.
        name: Of a component of.
    """
    if kind is None:
        return Components(kinds=[_listing(k) for k in kinds()])
    wanted = kind.lower()
    if wanted in kinds():
        listing = _listing(wanted)
        if name is None:
            return Components(kinds=[listing])
        found = _named(wanted, listing.components, name)
        if not found:
            raise UnsupportedError(
                f"no component {name!r} in {wanted}",
                expected=_close(name, [c.name for c in listing.components]),
                todo=f"`kanna components {wanted}` lists them",
            )
        return Components(kinds=[_with(listing, found)], whole=True)
    every = [_listing(k) for k in kinds()]
    if name is None:
        hits = [(k, _named(k.kind, k.components, kind)) for k in every]
        if any(found for _, found in hits):
            return Components(kinds=[_with(k, found) for k, found in hits if found], whole=True)
    raise UnsupportedError(
        f"no kind of components {kind!r}" + ("" if name else ", and no component of that name"),
        expected=_close(kind, [*kinds(), *(c.name for k in every for c in k.components)])
        if name is None
        else ", ".join(kinds()),
        todo="`kanna components` lists every kind",
    )


def _listing(name: str) -> Listing:
    kind: Kind = plugins.load(__name__, name, "KIND")
    text = prose(importlib.import_module(f"{__name__}.{name}"))
    return Listing(kind=name, summary=first(text), about=text, components=list(kind.find()))


def _with(listing: Listing, found: list[Component]) -> Listing:
    return Listing(
        kind=listing.kind, summary=listing.summary, about=listing.about, components=found
    )


def _named(kind: str, listed: list[Component], name: str) -> list[Component]:
    found = [c for c in listed if c.name.lower() == name.lower()]
    more = plugins.load(__name__, kind, "KIND").more
    if not found and more is not None and (one := more(name)) is not None:
        return [one]
    return found


def _close(name: str, known: list[str]) -> str:
    from difflib import get_close_matches

    lower = {k.lower(): k for k in known}
    close = [lower[c] for c in get_close_matches(name.lower(), list(lower), 4)]
    return ", ".join(close or list(dict.fromkeys(known))[:40])

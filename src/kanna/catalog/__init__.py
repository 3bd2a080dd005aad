"""The catalog of components: whatever a recipe, a plan or an option can name.

Each file here is a kind of component. Summaries come from the components' own records, options from
commands, signatures and fields.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from kanna._util import plugins
from kanna._util.results import Result, ResultTable
from kanna.catalog.base import Component, ComponentOption, Kind
from kanna.errors import UnsupportedError

__all__ = ["Component", "Components", "Listing", "ComponentOption", "components", "kinds"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The components of a kind.

    Attributes:
        kind: Name of the kind.
        summary: What the kind is, in a line.
        about: The summary, and where its components are named.
        components: The components.
    """

    kind: str
    summary: str
    about: str
    components: list[Component]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Components(Result):
    """A listing of components.

    Attributes:
        kinds: The components by kind.
        whole: Whether they are to be shown in full.
    """

    kinds: list[Listing]
    whole: bool = False

    @property
    def count(self) -> int:
        """Number of components."""
        return sum(len(k.components) for k in self.kinds)

    def headline(self) -> str:
        """How many there are."""
        return f"{self.count} components of {len(self.kinds)} kinds"

    def tables(self) -> list[ResultTable]:
        """A table per kind."""
        return [
            ResultTable(
                columns=("name", "summary"),
                rows=[(c.name, c.summary) for c in listing.components],
                title=listing.kind,
            )
            for listing in self.kinds
        ]

    def to_dict(self) -> dict[str, Any]:
        """Returns the listing as JSON has it."""
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
    """Returns the names of all kinds of components."""
    return plugins.names(__name__, "KIND")


def components(kind: str | None = None, name: str | None = None) -> Components:
    """List what recipes, plans and options can name.

    Args:
        kind: A kind of component; or, without `name`, the name of a component of any kind; None
            lists every kind.
        name: The component of that kind to show in full.

    Returns:
        The components by kind.

    Raises:
        UnsupportedError: There is no such kind or component; the error names similar ones.
    """
    if kind is None:
        return Components(kinds=[_listing(k) for k in kinds()])
    if kind.lower() in kinds():
        return _of_kind(kind.lower(), name)
    every_kind = [_listing(k) for k in kinds()]
    if name is None:
        hits = [(k, _named(k.kind, k.components, kind)) for k in every_kind]
        if any(matches for _, matches in hits):
            return Components(
                kinds=[replace(k, components=matches) for k, matches in hits if matches], whole=True
            )
    raise UnsupportedError(
        f"no kind of components {kind!r}" + ("" if name else ", and no component of that name"),
        expected=_close(kind, [*kinds(), *(c.name for k in every_kind for c in k.components)])
        if name is None
        else ", ".join(kinds()),
        todo="`kanna components` lists every kind",
    )


def _of_kind(kind: str, name: str | None) -> Components:
    listing = _listing(kind)
    if name is None:
        return Components(kinds=[listing])
    matches = _named(kind, listing.components, name)
    if not matches:
        raise UnsupportedError(
            f"no component {name!r} in {kind}",
            expected=_close(name, [c.name for c in listing.components]),
            todo=f"`kanna components {kind}` lists them",
        )
    return Components(kinds=[replace(listing, components=matches)], whole=True)


def _listing(name: str) -> Listing:
    kind: Kind = plugins.load(__name__, name, "KIND")
    about = f"{kind.summary}. {kind.about}".rstrip()
    return Listing(kind=name, summary=kind.summary, about=about, components=list(kind.find()))


def _named(kind: str, listed: list[Component], name: str) -> list[Component]:
    matches = [c for c in listed if c.name.lower() == name.lower()]
    more = plugins.load(__name__, kind, "KIND").more
    if not matches and more is not None and (component := more(name)) is not None:
        return [component]
    return matches


def _close(name: str, known: list[str]) -> str:
    from difflib import get_close_matches

    lower = {k.lower(): k for k in known}
    close = [lower[c] for c in get_close_matches(name.lower(), list(lower), 4)]
    return ", ".join(close or list(dict.fromkeys(known))[:40])

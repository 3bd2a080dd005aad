"""Layouts of models in registries; each file here exports LAYOUT."""

from __future__ import annotations

from kanna._util import plugins
from kanna.errors import UnsupportedError
from kanna.registry.layouts.base import RegistryLayout
from kanna.registry.manifests import Descriptor, ManifestDocument

DEFAULT = "modelpack"
"""The one that is written where none is named."""


def names() -> tuple[str, ...]:
    """Returns the names of all layouts, sorted."""
    return plugins.names(__name__, "LAYOUT")


def get(name: str) -> RegistryLayout:
    """Returns the layout of a name.

    Raises:
        UsageError: There is none of that name; the error lists the known ones.
    """
    return plugins.choose(__name__, name, "LAYOUT")


def of(document: ManifestDocument, what: str) -> RegistryLayout:
    """The layout of a manifest.

    Args:
        document: The manifest.
        what: Its name, for messages.

    Raises:
        UnsupportedError: It holds no model, or one in a layout that cannot be pulled.
    """
    known = {name: get(name) for name in names()}
    for name, layout in known.items():
        if layout.holds(document):
            if layout.files is None:
                raise UnsupportedError(
                    f"{what} is in the layout {name}, an archive of files",
                    expected=_pulled(known),
                    todo=f"read it with {' or '.join(layout.readers)}, or push it in another one",
                )
            return layout
    config = document.config.media_type if document.config else None
    raise UnsupportedError(
        f"{what} holds {document.artifact_type or config or 'no model'}", expected=_pulled(known)
    )


def files_of(document: ManifestDocument, what: str) -> dict[str, Descriptor]:
    """The files of a model by their path in its folder.

    Args:
        document: Its manifest.
        what: Its name, for messages.

    Raises:
        UnsupportedError: It holds no model, or archives.
        RefusedError: A path leads elsewhere, is there twice, or runs code when it is read.
    """
    files = of(document, what).files
    assert files is not None
    return files(document, what)


def _pulled(known: dict[str, RegistryLayout]) -> str:
    """What can be pulled, for messages."""
    return "a model in one of the layouts " + ", ".join(n for n in known if known[n].files)

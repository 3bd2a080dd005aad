"""Execution providers of onnxruntime: profiles of the package, and the user's own.

Each YAML file here is a provider; the user's lie in `providers` of the configuration folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kanna._util.folders import config_folder
from kanna._util.nearest import nearest
from kanna.errors import UsageError
from kanna.hardware.profile_files import profiles_in
from kanna.hardware.providers.base import Plugin, ProviderOperators, ProviderProfile
from kanna.hardware.providers.reading import read

__all__ = ["Plugin", "ProviderOperators", "ProviderProfile", "files", "get", "names", "own_folder"]

_HERE = Path(__file__).parent


def own_folder() -> Path:
    """Where the user's profiles lie."""
    return config_folder() / "providers"


def files() -> Mapping[str, Path]:
    """Profiles by name; one of the user takes the place of ours of the same name."""
    return profiles_in(_HERE, own_folder())


def names() -> list[str]:
    """Names of all providers."""
    return sorted(files())


def get(name: str) -> ProviderProfile:
    """The provider of a name, or of onnxruntime's own such as QNNExecutionProvider.

    Raises:
        UsageError: There is no such provider; near names are given.
        FormatError: The profile is not right.
    """
    known = files()
    wanted = name.strip().lower().removesuffix("executionprovider")
    if wanted not in known:
        raise UsageError(
            f"no execution provider {name!r}{nearest(wanted, known)}",
            expected=", ".join(sorted(known)),
            todo="docs/providers.md says how to write a profile of another one",
        )
    return read(known[wanted])

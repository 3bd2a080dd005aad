"""Devices that a model is made for: profiles of the package, and the user's own.

Each YAML file here is a device; the user's lie in `targets` of the configuration folder. A device
of several sizes of memory has a name per size, and its plain name is the first of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

from kanna._util.folders import config_folder
from kanna.errors import UsageError
from kanna.hardware.profile_files import profiles_in
from kanna.hardware.targets.base import DeviceBackend, DeviceProfile, Figure, TargetChoice
from kanna.hardware.targets.reading import read

__all__ = [
    "DeviceBackend",
    "TargetChoice",
    "Figure",
    "DeviceProfile",
    "choose",
    "device",
    "devices",
    "files",
    "names",
    "own_folder",
]

_HERE = Path(__file__).parent


def own_folder() -> Path:
    """Where the user's profiles lie."""
    return config_folder() / "targets"


def files() -> Mapping[str, Path]:
    """Profiles by name; one of the user takes the place of ours of the same name."""
    return profiles_in(_HERE, own_folder())


def names() -> list[str]:
    """Names of all devices; a profile of the user that cannot be read goes by its own."""
    return sorted(files())


def devices(name: str) -> list[DeviceProfile]:
    """The devices of a profile, one per size of memory.

    Raises:
        FormatError: The profile is not right.
    """
    return read(files()[name])


def choose(text: str) -> TargetChoice:
    """The device and backend that `NAME`, `NAME-8gb` or `NAME:BACKEND` means.

    Raises:
        UsageError: There is no such device, or it has no such backend; near names are given.
        FormatError: The profile is not right.
        UnsupportedError: The device has the backend, and nothing here plans for it.
    """
    name, _, backend = text.strip().partition(":")
    target = device(name)
    if backend and backend.lower() not in target.backends:
        raise UsageError(
            f"{target.title} has no backend {backend!r}",
            expected=" or ".join(f"{name}:{one}" for one in target.backends),
            todo=f"`kanna targets {name}` shows what each multiplies",
        )
    default = next((b for b in target.backends.values() if b.operators), None)
    if not backend and default is None:
        default = next(iter(target.backends.values()))
    chosen = target.backends[backend.lower()] if backend else default
    assert chosen is not None, "a profile has a backend"
    choice = TargetChoice(target=target, backend=chosen)
    _ = choice.operators  # says why there is none
    return choice


def device(name: str) -> DeviceProfile:
    """The device of a name, `NAME` or `NAME-8gb`; raises UsageError with near names."""
    known = files()
    name = name if name in known else name.lower()
    if name in known:
        return devices(name)[0]
    stem = max((n for n in known if name.startswith(f"{n}-")), key=len, default="")
    if stem:
        sizes = devices(stem)
        for target in sizes:
            if target.name == name:
                return target
        raise UsageError(
            f"no target {name!r}", expected=" or ".join(target.name for target in sizes)
        )
    close = get_close_matches(name, list(known), 3, 0.4)
    raise UsageError(
        f"no target {name!r}",
        expected=" or ".join(close) if close else ", ".join(sorted(known)),
        todo="`kanna targets` lists them, docs/targets.md says how to write one",
    )

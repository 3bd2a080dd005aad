"""The folders that kanna uses, by the XDG Base Directory Specification."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from kanna.errors import RefusedError

SETTINGS = "kanna.toml"
"""Name of a file with defaults of options."""


def cache_folder() -> Path:
    """What can be made again: $KANNA_CACHE, $XDG_CACHE_HOME/kanna, or ~/.cache/kanna."""
    return _folder("KANNA_CACHE", "XDG_CACHE_HOME", ".cache")


def own_cache_folder() -> Path:
    """The cache folder, made when absent, where nobody else can put anything.

    Raises:
        RefusedError: It belongs to somebody else, or everybody can write to it.
    """
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    for part in (folder, folder / "verified"):
        if part.exists():
            _refuse_open(part)
    return folder


def _refuse_open(folder: Path) -> None:
    """Refuse a folder that another user could have filled."""
    if not hasattr(os, "geteuid"):  # Windows has access lists, and a cache below the user's own
        return
    about = folder.stat()
    todo = "set KANNA_CACHE to a folder of your own, or remove this one"
    if about.st_uid not in (os.geteuid(), 0):
        raise RefusedError(
            f"the cache {folder} belongs to user {about.st_uid}, who could change what is in it",
            expected=f"a folder of user {os.geteuid()}",
            todo=todo,
        )
    if about.st_mode & stat.S_IWOTH:
        raise RefusedError(
            f"everybody can write to the cache {folder}",
            expected="a folder that only you can write to",
            todo=f"look at what is in it, then chmod o-w {folder}; or {todo}",
        )


def state_folder() -> Path:
    """Keys, usage and logs: $KANNA_STATE, $XDG_STATE_HOME/kanna, or ~/.local/state/kanna."""
    return _folder("KANNA_STATE", "XDG_STATE_HOME", ".local/state")


def config_folder() -> Path:
    """Settings: $KANNA_CONFIG, $XDG_CONFIG_HOME/kanna, or ~/.config/kanna."""
    return _folder("KANNA_CONFIG", "XDG_CONFIG_HOME", ".config")


def settings_files() -> list[Path]:
    """The settings that are there: the user's own, then those of the working folder."""
    return [p for p in (config_folder() / SETTINGS, Path.cwd() / SETTINGS) if p.is_file()]


def data_folder() -> Path:
    """What programs share: $XDG_DATA_HOME, or ~/.local/share."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")


def _folder(own: str, general: str, fallback: str) -> Path:
    if named := os.environ.get(own):
        return Path(named).expanduser()
    return Path(os.environ.get(general) or Path.home() / fallback) / "kanna"

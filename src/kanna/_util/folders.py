"""The folders that kanna uses, by the XDG Base Directory Specification."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """What can be made again: $KANNA_CACHE, $XDG_CACHE_HOME/kanna, or ~/.cache/kanna."""
    return _folder("KANNA_CACHE", "XDG_CACHE_HOME", ".cache")


def state_folder() -> Path:
    """Keys, usage and logs: $KANNA_STATE, $XDG_STATE_HOME/kanna, or ~/.local/state/kanna."""
    return _folder("KANNA_STATE", "XDG_STATE_HOME", ".local/state")


def config_folder() -> Path:
    """Settings: $KANNA_CONFIG, $XDG_CONFIG_HOME/kanna, or ~/.config/kanna."""
    return _folder("KANNA_CONFIG", "XDG_CONFIG_HOME", ".config")


def data_folder() -> Path:
    """What programs share: $XDG_DATA_HOME, or ~/.local/share."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")


def _folder(own: str, general: str, fallback: str) -> Path:
    if named := os.environ.get(own):
        return Path(named).expanduser()
    return Path(os.environ.get(general) or Path.home() / fallback) / "kanna"

"""Arrays in a safetensors file of our own, with the permissions that a new file has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kanna._util import own_files


def save(path: Path, arrays: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Write numpy arrays and string metadata to `path`, whole or not at all."""
    from safetensors.numpy import save_file

    with own_files.complete(path) as partial:
        own_files.create(partial).close()
        mode = partial.stat().st_mode
        save_file(dict(arrays), partial, dict(metadata) if metadata else None)
        partial.chmod(mode)  # the library makes files that only their owner can read

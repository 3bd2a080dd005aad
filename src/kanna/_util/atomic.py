"""Small files of ours, whole or not at all.

Under their name lies the old text until the new one is complete.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kanna._util import own_files


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file by way of a fresh name, which is gone when that fails.

    A link of that name is replaced, not followed.
    """
    with own_files.complete(path) as partial, own_files.create(partial) as file:
        view = memoryview(data)
        while view.nbytes:
            view = view[file.write(view) or 0 :]


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 to `path` as `write_bytes` does."""
    write_bytes(path, text.encode())


def json_text(value: Any) -> str:
    """What `write_json` writes."""
    return json.dumps(value, indent=1) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write what `json.loads` reads back."""
    write_text(path, json_text(value))

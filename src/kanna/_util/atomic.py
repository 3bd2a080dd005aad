"""Small files of ours, whole or not at all.

Under their name lies the old text until the new one is complete.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 to `path` by way of NAME.partial, which is gone when that fails."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write what `json.loads` reads back."""
    write_text(path, json.dumps(value, indent=1) + "\n")

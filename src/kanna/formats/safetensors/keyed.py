"""Arrays that an interrupted run finds again, under the key of what they depend on."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kanna.formats.safetensors.save import save


@dataclass(frozen=True, slots=True)
class KeyedArrays:
    """Files of arrays in a folder.

    Attributes:
        folder: The folder, which exists when something is saved.
        key: Hash of what the arrays depend on; files of another are not read.
    """

    folder: Path
    key: str

    def path(self, name: str) -> Path:
        """The file of a name."""
        return self.folder / f"{name}.safetensors"

    def save(self, name: str, arrays: Mapping[str, Any]) -> None:
        """Write arrays of any shapes and dtypes under a name."""
        contiguous = {key: np.ascontiguousarray(value) for key, value in arrays.items()}
        save(self.path(name), contiguous, {"key": self.key})

    def read(self, name: str) -> dict[str, Any] | None:
        """What was saved under a name for the same key; None where there is nothing whole."""
        from safetensors import SafetensorError, safe_open
        from safetensors.numpy import load_file

        path = self.path(name)
        with suppress(OSError, SafetensorError), safe_open(str(path), framework="np") as file:
            if (file.metadata() or {}).get("key") == self.key:
                return load_file(path)
        return None

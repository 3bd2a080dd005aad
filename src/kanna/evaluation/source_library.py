"""The library that a source was published for, and whether it reads this one."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from kanna.sources import Source

LIBRARY = ("torch", "transformers")
_NEW_SPELLING = "rope_parameters"
_READS_NEW = 5
"""transformers from this version on reads `rope_parameters`."""


def cannot_read(source: Source) -> str:
    """Why transformers cannot be asked about a source; "" where it can.

    Args:
        source: What is to be read.
    """
    if source.kind != "hf":
        return "the source is a GGUF"
    if source.merged:
        return "adapters are merged into the source, in no folder that it reads"
    if source.packed:
        return "the source has packed weights, which it reads with further libraries alone"
    return not_installed(LIBRARY) or reads_otherwise(source.config)


def not_installed(packages: Sequence[str]) -> str:
    """`torch is not installed`; "" where all are.

    Args:
        packages: Their names.
    """
    absent = [p for p in packages if importlib.util.find_spec(p.replace("-", "_")) is None]
    return f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not installed" * bool(
        absent
    )


def reads_otherwise(config: Mapping[str, Any]) -> str:
    """What the installed transformers passes over in a config; "" for nothing.

    Args:
        config: config.json.
    """
    text = config.get("text_config")
    new = _NEW_SPELLING in config or (isinstance(text, Mapping) and _NEW_SPELLING in text)
    if new and importlib.util.find_spec(LIBRARY[-1]) is not None:
        version = importlib.metadata.version(LIBRARY[-1])
        if int(version.partition(".")[0]) < _READS_NEW:
            return f"transformers {version} does not read rope_parameters"
    return ""


@cache
def code_of(module: str) -> str:
    """SHA-256 of the code that asks a library: a newer one may ask for more.

    Args:
        module: Its name.
    """
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()

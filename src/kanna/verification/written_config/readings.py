"""Answers of other libraries on configs, each asked once and kept in the cache folder."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from kanna._util import library_answers
from kanna._util.kept_process import ask_kept
from kanna.sources.packages import cache_dir
from kanna.verification.written_config.computation import Computation

LIBRARY = ("torch", "transformers")
_WORKER = "kanna.verification.written_config.library_worker"
_NEW_SPELLING = "rope_parameters"
_READS_NEW = 5
"""transformers from this version on reads `rope_parameters`."""
_IDLE = frozenset(
    {
        "_name_or_path",
        "bos_token_id",
        "dtype",
        "eos_token_id",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)
"""Keys that no number here depends on: configs that differ in these alone are asked about once."""
_FOLDER = "config-readings"


def read_by_library(config: Mapping[str, Any]) -> Computation | str:
    """The computation that transformers makes of a config; the reason where it makes none."""
    text = config.get("text_config")
    new = _NEW_SPELLING in config or (isinstance(text, Mapping) and _NEW_SPELLING in text)
    if new and importlib.util.find_spec(LIBRARY[-1]) is not None:
        version = importlib.metadata.version(LIBRARY[-1])
        if int(version.partition(".")[0]) < _READS_NEW:
            return f"transformers {version} does not read rope_parameters"
    return read(_WORKER, config, LIBRARY)


def read(module: str, config: Mapping[str, Any], packages: Sequence[str]) -> Computation | str:
    """The computation that a library makes of a config; the reason where it makes none.

    Args:
        module: The process that asks the library.
        config: config.json.
        packages: What it needs; their versions tell one answer from another.
    """
    absent = [p for p in packages if importlib.util.find_spec(p.replace("-", "_")) is None]
    if absent:
        return f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not installed"
    config = {k: v for k, v in config.items() if k not in _IDLE}
    versions = [importlib.metadata.version(p) for p in packages]
    return library_answers.answer(
        cache_dir() / _FOLDER,
        [module, _text_of(module), versions, config],
        lambda: ask_kept(module, {"config": config}, packages[-1]),
        Computation.of_json,
    )


@cache
def _text_of(module: str) -> str:
    """SHA-256 of the code that asks: a newer one may ask for more."""
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()

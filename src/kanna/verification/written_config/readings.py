"""Answers of other libraries on configs, each asked once and kept in the cache folder."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Mapping, Sequence
from typing import Any

from kanna._util.atomic import write_text
from kanna._util.kept_process import ask_kept
from kanna.errors import KannaError
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
_CACHED = 256


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
    key = hashlib.sha256(
        json.dumps([module, versions, config], sort_keys=True).encode()
    ).hexdigest()
    path = cache_dir() / _FOLDER / f"{key[:24]}.json"
    try:
        return Computation.of_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError):  # none, or one of an earlier version
        pass
    try:
        answer = ask_kept(module, {"config": config}, packages[-1])
    except KannaError as error:
        return error.found
    if "failure" in answer:
        return str(answer["failure"])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(answer))
    newest = sorted(path.parent.glob("*.json"), key=lambda p: p.stat().st_mtime, reverse=True)
    for old in newest[_CACHED:]:
        old.unlink(missing_ok=True)
    return Computation.of_json(answer)

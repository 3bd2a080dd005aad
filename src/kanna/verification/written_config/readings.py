"""Answers of other libraries on configs, each asked once and kept in the cache folder."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kanna._util import library_answers, transformers_process
from kanna.evaluation import source_library
from kanna.sources.packages import cache_dir
from kanna.verification.written_config.computation import Computation

_WORKER = "kanna.verification.written_config.library_worker"
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
    if why := source_library.reads_otherwise(config):
        return why
    return read(_WORKER, config, source_library.LIBRARY, transformers_process.ask)


def read(
    module: str,
    config: Mapping[str, Any],
    packages: Sequence[str],
    ask: Callable[[str, Mapping[str, Any]], dict[str, Any]],
) -> Computation | str:
    """The computation that a library makes of a config; the reason where it makes none.

    Args:
        module: Whose `read` asks the library.
        config: config.json.
        packages: What it needs; their versions tell one answer from another.
        ask: Has a process do so: the module, and its task.
    """
    if why := source_library.not_installed(packages):
        return why
    config = {k: v for k, v in config.items() if k not in _IDLE}
    versions = [importlib.metadata.version(p) for p in packages]
    return library_answers.answer(
        cache_dir() / _FOLDER,
        [module, source_library.code_of(module), versions, config],
        lambda: ask(module, {"config": config}),
        Computation.of_json,
    )

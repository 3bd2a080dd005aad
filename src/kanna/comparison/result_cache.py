"""What an earlier run found out about artefacts that are still the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kanna import __version__
from kanna._util import verified
from kanna._util.atomic import write_json

FILE = ".kanna-compare.json"


class ResultCache:
    """Results by artefact in a small file of the output folder, saved after every step.

    A result counts only for the same bytes (their SHA-256), source, settings, kanna and
    runtime. Speed is never reused: the machine may be busier now.
    """

    def __init__(self, folder: Path, hashes: Mapping[str, str], runtime: str) -> None:
        self._path = folder / FILE
        self._base = [__version__, runtime, dict(hashes)]
        try:
            stored = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            stored = {}
        self._results: dict[str, Any] = stored if isinstance(stored, dict) else {}

    def get(self, artefact: str, kind: str, *settings: object) -> dict[str, Any] | None:
        """The result of `kind` for an artefact, or None when something differs."""
        entry = self._results.get(f"{kind}:{Path(artefact).name}")
        if not isinstance(entry, dict) or entry.get("key") != self._key(artefact, settings):
            return None
        return entry["value"]

    def put(self, artefact: str, kind: str, value: dict[str, Any], *settings: object) -> None:
        """Save the result of `kind` for an artefact as it is now."""
        self._results[f"{kind}:{Path(artefact).name}"] = {
            "key": self._key(artefact, settings),
            "value": value,
        }
        write_json(self._path, self._results)

    def _key(self, artefact: str, settings: tuple[object, ...]) -> str:
        path = Path(artefact)
        parts = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        digests = [verified.digest(part) for part in parts]
        known = [*self._base, digests, *map(str, settings)]
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()

"""Proves the artefacts of a comparison."""

from __future__ import annotations

from typing import Any

from kanna.comparison.context import ComparisonContext
from kanna.comparison.rows import Row
from kanna.errors import GateError, MissingError
from kanna.verification import verify


def gate(row: Row, context: ComparisonContext) -> None:
    """Verify one artefact; the row says what cannot be proved here, nothing is raised for it."""
    artefact = row.path or ""
    data = context.cache.get(artefact, "gate")
    if data is None:
        data = _verified(artefact, context)
        if data["status"] == "proved":
            context.cache.put(artefact, "gate", data)
    row.gate, row.checks = data["status"], data["checks"]


def _verified(artefact: str, context: ComparisonContext) -> dict[str, Any]:
    try:
        return verify(
            context.source, artefact, threads=context.threads, progress=context.progress
        ).to_dict()
    except MissingError as error:
        return {
            "status": "unprovable",
            "checks": [{"name": "runtime", "ok": None, "detail": error.found}],
        }
    except GateError as error:
        return {
            "status": "failed",
            "checks": [{"name": "gate", "ok": False, "detail": str(error)}],
        }

"""TARGET: where a packaged artefact runs. A file put here exists under its own name."""

from __future__ import annotations

from kanna._util import plugins
from kanna.packaging.targets.base import Target


def names() -> tuple[str, ...]:
    return plugins.names(__name__, "TARGET")


def get(name: str) -> Target:
    """Raises UnsupportedError naming the known ones."""
    return plugins.load(__name__, name, "TARGET")

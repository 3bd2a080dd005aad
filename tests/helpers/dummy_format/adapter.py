"""How the format is optimized: as its record and its conversion say."""

from __future__ import annotations

from kanna.optimization.adapters.base import Adapter


class DummyAdapter(Adapter):
    """Every default."""

    format = "dummy"


ADAPTER = DummyAdapter

"""The file that costs of encodings are kept in, tensor by tensor."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kanna._util.atomic import write_json
from kanna.calibration.devices import CPU, serves


@dataclass(slots=True, kw_only=True)
class MeasuredFile:
    """Costs that were measured so far.

    Attributes:
        key: Hash of what they depend on.
        names: Encodings that are measured; None: all.
        device: Where errors are multiplied by held-out inputs.
        costs: In nats, by tensor and encoding.
    """

    path: Path
    key: str
    names: Sequence[str] | None
    device: str | None
    costs: dict[str, dict[str, float]] = field(default_factory=dict[str, "dict[str, float]"])

    def load(self) -> None:
        """Take up what an earlier run measured by the same key, and its device."""
        try:
            before = json.loads(self.path.read_text(encoding="utf-8"))
            if before["key"] == self.key and serves(self.device, before.get("device", CPU)):
                self.costs, self.device = before["costs"], before.get("device", CPU)
        except (OSError, ValueError, KeyError):
            pass

    def save(self) -> None:
        """Write it."""
        write_json(self.path, {"key": self.key, "device": self.device, "costs": self.costs})

"""What tests of calibration share: short windows, and a progress that is interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kanna
from kanna import families
from kanna.calibration import texts
from kanna.calibration.windows import cut

WINDOW, TOKENS = 128, 512


def windows_of(source: Path, text: Path, tokens: int) -> Any:
    model = families.load_model(kanna.open_source(source))
    return cut(texts.documents([text], model)[0], model, tokens=tokens)


class Stops:
    """Progress that is interrupted once, where `when` says."""

    def __init__(self, when: str) -> None:
        self.when, self.seen = when, list[str]()

    def start(self, stage: str, total: int | None, unit: str = "bytes") -> None:
        pass

    def advance(self, amount: int, detail: str = "") -> None:
        self.seen.append(detail)
        if detail == self.when:
            raise KeyboardInterrupt

    def finish(self) -> None:
        pass

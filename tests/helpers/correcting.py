"""What the tests of correction share: a tiny model in two layers, calibrated and quantized."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import kanna
from helpers.calibrating import TOKENS, windows_of
from helpers.optimizing import quick
from kanna import families
from kanna.calibration import statistics
from kanna.calibration.windows import CalibrationWindows
from kanna.optimization.correction.layers import CorrectionPass
from kanna.optimization.correction.pass_text import PassText
from kanna.plan import Plan


@dataclass(frozen=True, slots=True)
class Quantized:
    """A folder with `tiny`, its statistics `stats`, `plan.json`, and the `plan.gguf` it makes."""

    home: Path
    windows: CalibrationWindows

    def start(self, folder: Path, device: str = "cpu") -> CorrectionPass:
        """A pass that keeps what it has done in a folder."""
        model, artefact = (
            families.load_model(kanna.open_source(self.home / name))
            for name in ("tiny", "plan.gguf")
        )
        text = PassText(ids=np.ascontiguousarray(self.windows.ids[:6]), summed=4, learned=4)
        return CorrectionPass(
            model,
            artefact,
            statistics.read(self.home / "stats"),
            text,
            folder,
            "key",
            device=device,
            threads=1,
        )


@contextmanager
def quantized(home: Path) -> Iterator[Quantized]:
    """Fill `home`; short windows and one thread, until it is left."""
    import torch

    from helpers import tiny_models

    text = home / "text.txt"
    text.write_text(tiny_models.TEXT * 60, encoding="utf-8")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with quick() as patch:
            patch.setitem(tiny_models.SMALL, "num_hidden_layers", 2)
            tiny_models.make("llama", home / "tiny")
            kanna.calibrate(home / "tiny", home / "stats", calibration=[text], tokens=TOKENS)
            Plan(name="four", encoding="q4_0").save(home / "plan.json")
            kanna.convert(
                home / "tiny",
                home / "plan.gguf",
                plan=home / "plan.json",
                statistics=home / "stats",
                threads=1,
            )
            yield Quantized(home, windows_of(home / "tiny", text, TOKENS))
    finally:
        torch.set_num_threads(threads)

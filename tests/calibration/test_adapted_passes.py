"""`kanna calibrate --adapter`: a base is read without and with every adapter beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import needs, tiny_adapters

import kanna
from kanna._util.progress import Silent
from kanna.adapters import merged_source, open_adapter
from kanna.calibration import gradients, statistics
from kanna.errors import SourceError, UsageError

needs.package("torch")
needs.package("peft")

SITE = "blk.1.ffn_mid"
FEW: dict[str, Any] = {"tokens": 2048, "device": "cpu"}


class Told(Silent):
    """Progress that keeps what is said beside it."""

    def __init__(self) -> None:
        self.remarks: list[str] = []

    def remark(self, text: str) -> None:
        self.remarks.append(text)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("passes")
    source = tiny_adapters.base("llama", folder / "source")
    modules = {"target_modules": ["q_proj", "up_proj", "down_proj"], "lora_alpha": 40}
    for name, seed in (("one", 5), ("two", 6)):
        tiny_adapters.make(source, folder / name, seed=seed, **modules)
    adapters = [folder / "one", folder / "two"]
    kanna.calibrate(source, folder / "all", adapter=adapters, gradients=True, **FEW)
    return folder


def test_second_moments_are_those_of_all_passes_together(home: Path) -> None:
    source = kanna.open_source(home / "source")
    models: list[Any] = [source]
    models += [merged_source(source, [(open_adapter(home / n), 1.0)]) for n in ("one", "two")]
    each: list[np.ndarray] = []
    for number, model in enumerate(models):
        kanna.calibrate(model, home / f"alone-{number}", **FEW)
        each.append(statistics.read(home / f"alone-{number}").read(SITE, "second"))
    assert np.abs(each[0] - each[1]).max() > 0.01 * np.abs(each[0]).max()  # adapters change them
    made = statistics.read(home / "all")
    np.testing.assert_allclose(made.read(SITE, "second"), np.mean(each, 0), rtol=1e-4, atol=1e-6)
    made.check(kanna.families.load_model(source))  # they are of the base
    assert len(made.info["adapters"]) == 2 and (home / "all" / gradients.FILE).is_file()
    assert not (home / "all-passes").exists()
    held = [(home / f / statistics.HELD_TEXT).read_text() for f in ("all", "alone-0")]
    assert held[0] == held[1]


def test_they_are_kept_and_the_base_is_quantized_with_them(home: Path) -> None:
    adapters = [home / "one", home / "two"]
    (home / "all-passes" / "0").mkdir(parents=True)  # as a run leaves it that is killed at its end
    again = kanna.calibrate(home / "source", home / "all", adapter=adapters, gradients=True, **FEW)
    assert again.reused and not (home / "all-passes").exists()
    told = Told()
    fewer = kanna.calibrate(
        home / "source", home / "fewer", adapter=home / "one", progress=told, **FEW
    )
    assert [text.split(": ")[-1] for text in told.remarks] == ["1 of 2.", "2 of 2."]
    assert "without an adapter" in told.remarks[0] and "one" in told.remarks[1]
    assert not fewer.reused and fewer.sites == again.sites
    kanna.convert(
        home / "source", home / "base.gguf", preset="Q4_0", statistics=home / "all", threads=1
    )


def test_what_cannot_be_read_under_adapters_is_refused(home: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--adapter and --shards"):
        kanna.calibrate(home / "source", tmp_path / "no", adapter=home / "one", shards=2)
    with pytest.raises(SourceError):
        kanna.calibrate(home / "source", tmp_path / "no", adapter=home / "absent")
    assert not (tmp_path / "no").exists()

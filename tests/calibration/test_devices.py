"""Calibration on an accelerator: the CPU's numbers, and what is done where its memory runs out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kanna
from kanna import families
from kanna._util.progress import Silent
from kanna.errors import UsageError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from helpers import accelerators, tiny_models  # noqa: E402 - needs torch
from helpers.calibrating import windows_of  # noqa: E402 - needs torch
from helpers.optimizing import quick  # noqa: E402 - needs torch

from kanna.calibration import gradients, self_generated, windows  # noqa: E402 - needs torch
from kanna.calibration.backward_pass import _Squares  # noqa: E402 - needs torch
from kanna.calibration.devices import pick_device, within_memory  # noqa: E402 - needs torch
from kanna.calibration.network import Network  # noqa: E402 - needs torch
from kanna.calibration.run import run  # noqa: E402 - needs torch
from kanna.calibration.second_moments import InputSums  # noqa: E402 - needs torch

FAMILIES = ("llama", "mixtral", "gemma4", "granite-hybrid")
FIRST = "llama"
OTHERS = [FIRST, *(pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES[1:])]
WINDOW, TOKENS = 64, 640
CPU = "cpu"


class Shown(Silent):
    """Progress that keeps the lines above its bars."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def remark(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module", autouse=True)
def short() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with quick() as patch:
        patch.setattr(windows, "WINDOW", WINDOW)
        accelerators.native_feedback(patch)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("devices")
    (folder / "text.txt").write_text(tiny_models.TEXT * 60, encoding="utf-8")
    return folder


def source(home: Path, family: str) -> Path:
    """A tiny model of a family."""
    if not (home / family).exists():
        tiny_models.make(family, home / family)
    return home / family


@cache
def on_the_cpu(home: Path, family: str) -> dict[str, Any]:
    """Every array, as the CPU computes it."""
    return computed(home, family, CPU, home / f"{family}-cpu")[0]


def computed(
    home: Path, family: str, device: str, folder: Path, progress: Any = None
) -> tuple[dict[str, Any], list[str]]:
    """Every array of statistics and gradients, and the remarks of both passes."""
    from safetensors.numpy import load_file

    folder.mkdir()
    source(home, family)
    model = families.load_model(kanna.open_source(home / family))
    text, shown = windows_of(home / family, home / "text.txt", TOKENS), progress or Silent()
    made = run(model, text, folder, {}, widest=4096, device=device, progress=shown)
    remarks = gradients.gradients(model, text, folder, "key", device=device, progress=shown)
    arrays = {
        f"{path.name}:{name}": array
        for path in sorted(folder.glob("*.safetensors"))
        for name, array in load_file(path).items()
    }
    return arrays, [*made.remarks, *remarks]


@pytest.mark.parametrize("device", accelerators.EACH)
@pytest.mark.parametrize("family", OTHERS)
def test_statistics_and_gradients_are_those_of_the_cpu(
    family: str, device: str, home: Path, tmp_path: Path
) -> None:
    accelerators.require(device)
    want = on_the_cpu(home, family)
    got, remarks = computed(home, family, device, tmp_path / "other")
    assert got.keys() == want.keys() and len(want) > 20 and remarks == []
    for name, exact in want.items():
        size = float(np.linalg.norm(exact.astype(np.float64)))
        error = float(np.linalg.norm(got[name].astype(np.float64) - exact))
        # A label that was drawn otherwise, by a probability's last place, changes some gradients.
        bound = 2e-2 if device == "cuda" and gradients.FILE in name else 1e-3
        assert error <= bound * size, (name, error, size)


@pytest.mark.parametrize("family", [OTHERS[0], OTHERS[2]])
def test_where_memory_runs_out_it_goes_on_with_less(
    family: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First with fewer windows, then on the CPU, each told once; nothing is counted twice."""
    want = on_the_cpu(home, family)
    steps = 2 if family == FIRST else 1  # layers that share keys take one window from the start
    accelerators.fills(monkeypatch, InputSums, "add", *range(1, 1 + steps))
    # The first call is of the head, which reads one window at a time.
    accelerators.fills(monkeypatch, _Squares, "add", *range(30, 30 + steps))
    shown = Shown()
    got, remarks = computed(home, family, accelerators.STAND_IN, tmp_path / "other", shown)
    fewer = [one for one in remarks if "fewer windows at a time" in one]
    on_cpu = [one for one in remarks if "on the CPU from there on" in one]
    assert len(on_cpu) == 2 and len(fewer) == 2 * (steps - 1) and len(remarks) == 2 * steps
    assert shown.lines == remarks and "layer 0" in remarks[0] and "cpu:0" in remarks[0]
    assert got.keys() == want.keys()
    for name, exact in want.items():
        assert np.allclose(got[name], exact, rtol=1e-4, atol=1e-4 * np.abs(exact).max()), name


def test_other_errors_and_a_full_cpu_are_not_hidden() -> None:
    def full() -> None:
        raise torch.OutOfMemoryError("out")

    def wrong() -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(torch.OutOfMemoryError):
        within_memory(full, lambda: False)
    with pytest.raises(RuntimeError, match="shapes differ"):
        within_memory(wrong, lambda: pytest.fail("no memory ran out"))


def test_a_device_that_is_not_there_is_refused(home: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no device 'gpu'"):
        kanna.calibrate(source(home, FIRST), tmp_path / "stats", device="gpu")
    assert pick_device("cpu") == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="no device 'cuda' here"):
            pick_device("cuda")


def test_statistics_of_another_device_are_not_taken_for_those_of_the_named_one(
    home: Path, tmp_path: Path
) -> None:
    def made(device: str | None) -> kanna.CalibrateResult:
        return kanna.calibrate(
            source(home, FIRST),
            tmp_path / "stats",
            calibration=home / "text.txt",
            tokens=512,
            device=device,
        )

    first = made(accelerators.STAND_IN)
    assert first.device == accelerators.STAND_IN and not first.reused
    assert made(None).reused and made(accelerators.STAND_IN).reused
    kanna.convert(
        source(home, FIRST),
        tmp_path / "there.gguf",
        preset="Q4_0",
        statistics=tmp_path / "stats",
        threads=1,
    )
    entries = kanna.inspect(tmp_path / "there.gguf").provenance
    assert entries["kanna.statistics.device"] == accelerators.STAND_IN
    other = made("cpu")
    assert other.device == "cpu" and not other.reused
    index = json.loads((tmp_path / "stats" / "index.json").read_text())
    assert index["device"] == "cpu"


def test_sampling_goes_on_with_less(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KANNA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(self_generated, "WINDOW", 12)
    monkeypatch.setattr(self_generated, "HELD_OUT_WINDOWS", 1)
    opened = kanna.open_source(source(home, FIRST))
    model = families.load_model(opened)

    def sampled(device: str, progress: Any) -> list[str]:
        files = self_generated.resolve(
            "self", opened, model, tokens=60, device=device, progress=progress
        )
        assert files.paths and files.sampled
        assert files.sampled.get("device", "cpu") == device
        return [path.read_text() for path in files.paths]

    want, shown = sampled("cpu", Silent()), Shown()
    accelerators.fills(monkeypatch, Network, "check", 3, 9)
    assert sampled(accelerators.STAND_IN, shown) == want
    assert len(shown.lines) == 2 and "fewer windows" in shown.lines[0]

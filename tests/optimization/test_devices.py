"""Measuring, correcting and tuning on an accelerator, and where its memory runs out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kanna
from kanna import encodings, families
from kanna._util.progress import Silent

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from helpers import accelerators, optimizing  # noqa: E402 - needs torch
from helpers.correcting import Quantized, quantized  # noqa: E402 - needs torch

from kanna.calibration import statistics  # noqa: E402 - needs torch
from kanna.libllama import library  # noqa: E402 - needs torch
from kanna.optimization import held_products  # noqa: E402 - needs torch
from kanna.optimization.adapters.gguf import GGUFAdapter  # noqa: E402 - needs torch
from kanna.optimization.context import Context, Workspace  # noqa: E402 - needs torch
from kanna.optimization.correction.device_products import DeviceProducts  # noqa: E402 - needs torch
from kanna.optimization.correction.products import InputProducts  # noqa: E402 - needs torch
from kanna.optimization.kl_scorer import HeldOutWindows  # noqa: E402 - needs torch
from kanna.optimization.measure import measure  # noqa: E402 - needs torch
from kanna.optimization.tuning import distillation  # noqa: E402 - needs torch
from kanna.optimization.tuning.student import Student  # noqa: E402 - needs torch


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Quantized]:
    with (
        quantized(tmp_path_factory.mktemp("devices")) as one,
        pytest.MonkeyPatch.context() as patch,
    ):
        accelerators.native_feedback(patch)
        yield one


@pytest.fixture(scope="module")
def on_the_cpu(made: Quantized) -> dict[str, Any]:
    """Rows as the CPU corrects them."""
    return made.start(made.home / "cpu").run(Silent())


@pytest.mark.parametrize("device", accelerators.EACH)
def test_costs_are_those_of_the_cpu(
    device: str, made: Quantized, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerators.require(device)
    model = families.load_model(kanna.open_source(made.home / "tiny"))
    stats = statistics.read(made.home / "stats")

    def costs(device: str | None, name: str) -> Any:
        return measure(
            model,
            stats,
            tmp_path / name,
            threads=1,
            progress=Silent(),
            names=["q4_0", "q8_0"],
            device=device,
        )

    want, got = costs("cpu", "one.json"), costs(device, "two.json")
    same_costs(got, want)
    assert json.loads((tmp_path / "two.json").read_text())["device"] == device
    # Where memory runs out, the CPU goes on, and says so once.
    accelerators.fills(monkeypatch, held_products.HeldProducts, "_errors", 1)
    less = costs(device, "three.json")
    assert len(less.remarks) == 1 and "on the CPU" in less.remarks[0]
    same_costs(less, want)
    # Costs of the named device alone are taken up again.
    monkeypatch.setattr(held_products.HeldProducts, "_errors", None)
    assert costs(None, "two.json").costs == got.costs
    assert costs("cpu", "two.json").costs == want.costs


def same_costs(one: Any, other: Any) -> None:
    assert one.costs.keys() == other.costs.keys()
    for name, costs in other.costs.items():
        assert one.costs[name] == pytest.approx(costs, rel=1e-3), name


def test_products_in_double_precision_are_those_of_the_cpu() -> None:
    rng = np.random.default_rng(0)
    exact, given, off = (rng.standard_normal((40, 12), dtype=np.float32) for _ in range(3))
    weight = rng.standard_normal((7, 12), dtype=np.float32)
    here, there = InputProducts(), DeviceProducts("cpu")
    here.add(exact, given, off[:, :7])
    there.add(*(torch.from_numpy(np.array(x)) for x in (exact, given, off[:, :7])))
    wanted = [one.wanted(weight, one.off()) for one in (here, there)]
    assert np.allclose(*wanted, rtol=1e-5)
    assert np.allclose(*(one.target(weight, wanted[0], 0.1) for one in (here, there)), rtol=1e-4)
    assert np.allclose(*(one.errors(weight, wanted[0]) for one in (here, there)), rtol=1e-4)
    assert np.allclose(here.mean_second(), there.mean_second(), rtol=1e-5)


@pytest.mark.parametrize("device", accelerators.EACH)
def test_corrected_rows_are_those_of_the_cpu(
    device: str, made: Quantized, on_the_cpu: dict[str, Any], tmp_path: Path
) -> None:
    accelerators.require(device)
    want = on_the_cpu
    one = made.start(tmp_path / "other", device=device)
    got = one.run(Silent())
    assert got.keys() == want.keys() and one.remarks == []
    if device == accelerators.STAND_IN:
        assert all(np.array_equal(got[name], rows) for name, rows in want.items())
    # Rows behind one that was rounded otherwise are fitted to other inputs: no worse, but others.
    assert distance(got, made) == pytest.approx(distance(want, made), rel=0.02)


def distance(rows: dict[str, Any], made: Quantized) -> float:
    """How far rows are from the original's, relative to these."""
    model = families.load_model(kanna.open_source(made.home / "tiny"))
    off = size = 0.0
    for name, data in rows.items():
        weight = model.tensors[name].rows(0, len(data))
        off += float(np.square(encodings.get("q4_0").decode(data, weight.shape[1]) - weight).sum())
        size += float(np.square(weight).sum())
    return off / size


@pytest.mark.slow
def test_a_correction_goes_on_on_the_cpu(
    made: Quantized, on_the_cpu: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = on_the_cpu
    accelerators.fills(monkeypatch, InputProducts, "wanted", 1)
    less = made.start(tmp_path / "less", device=accelerators.STAND_IN)
    rows = less.run(Silent())
    assert len(less.remarks) == 1 and "on the CPU" in less.remarks[0]
    assert rows.keys() == want.keys()


@pytest.mark.parametrize("device", accelerators.EACH)
def test_tuning_learns_what_it_learns_on_the_cpu(
    device: str, made: Quantized, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerators.require(device)
    want, _ = tuned(made, tmp_path / "cpu", "cpu")
    got, notes = tuned(made, tmp_path / "other", device)
    assert got.device == device and notes == []
    assert got.watched == pytest.approx(want.watched, rel=1e-2)
    assert got.trained == pytest.approx(want.trained, rel=1e-2)
    accelerators.fills(monkeypatch, Student, "learn", 2, 5)
    less, notes = tuned(made, tmp_path / "less", device)
    assert less.watched == pytest.approx(want.watched, rel=1e-2)
    assert len(notes) == 2 and "an eighth" in notes[0] and "on the CPU" in notes[1]


class _Untold:
    """A subject that is scored by nothing: what it learned is looked at."""

    def __init__(self, subject: Any) -> None:
        self._subject = subject

    def __getattr__(self, name: str) -> Any:
        return getattr(self._subject, name)

    def score(self, training: Any, progress: Any) -> Any:
        return np.array(training.start), np.array(training.start) * training.watched[-1]


def tuned(made: Quantized, folder: Path, device: str) -> tuple[Any, list[str]]:
    """What tuning a quantized file comes to, and the notes."""
    folder.mkdir()
    source = kanna.open_source(made.home / "tiny")
    context = Context(threads=1, device=device)
    workspace = Workspace(
        source=source,
        model=families.load_model(source),
        folder=folder,
        context=context,
        statistics=made.home / "stats",
    )
    plan = folder / "plan.json"
    plan.write_bytes((made.home / "plan.json").read_bytes())
    ids = made.windows.ids.tolist()
    held = HeldOutWindows(trial=[("prose", one) for one in ids[:2]], proof=[], fitted=False)
    subject = GGUFAdapter(workspace).tuning_subject(
        plan, made.home / "plan.gguf", folder / "tuned.gguf", held
    )
    result = distillation.tune(
        workspace, _Untold(subject), plan, made.windows, replace(held, rest=[])
    )
    assert result is not None
    return result, context.notes


@pytest.mark.gpu
def test_a_file_of_the_device_is_as_close_as_that_of_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerators.require("cuda")
    try:
        library()
    except kanna.errors.MissingError as error:
        pytest.skip(str(error))
    with optimizing.learning(tmp_path / "cache"):
        optimizing.fill(tmp_path)
        found: dict[str, Any] = {}
        for device in ("cpu", "cuda"):
            words = ("--bpw", "5", "--effort", "balanced", "--device", device)
            done = optimizing.invoke(tmp_path, *words, out=f"out-{device}")
            assert done.exit_code == 0, done.output
            found[device] = json.loads(done.output)
    assert found["cuda"]["device"].startswith("cuda") and found["cpu"]["device"] == "cpu"
    assert found["cuda"]["kl_mean"] <= 1.01 * found["cpu"]["kl_mean"]
    assert kanna.inspect(found["cuda"]["artefact"]).provenance["kanna.statistics.device"] == "cuda"

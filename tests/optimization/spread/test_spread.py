"""Layers measured and encoded as parts, here; in a cluster: tests/executors/test_ray.py."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import needs

import kanna
from kanna.errors import UsageError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from helpers import optimizing  # noqa: E402 - needs torch
from helpers.calibrating import Stops  # noqa: E402 - needs torch

from kanna.optimization import measure  # noqa: E402 - needs torch
from kanna.optimization.spread.layers import layers_of  # noqa: E402 - needs torch


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a tiny model and its texts; the same code in less time."""
    needs.llama_cpp()
    with optimizing.quick() as patch:
        patch.setattr(measure, "CANDIDATES", ("q4_0", "q4_k", "q8_0", "f16"))
        yield optimizing.fill(tmp_path_factory.mktemp("spread"))


def optimized(home: Path, out: Path, **more: Any) -> Any:
    options: dict[str, Any] = {
        "bpw": 5,
        "calibration": [home / "text.txt"],
        "tokens": 1024,
        "effort": "fast",
        "text": home / "other.txt",
        "windows": 1,
        "threads": 1,
    }
    return kanna.optimize(home / "tiny", out, **options | more)


def test_layers_are_parts_and_so_are_matrices_outside_of_them() -> None:
    names = ["token_embd.weight", "blk.0.a.weight", "blk.10.a.weight", "blk.0.b.weight"]
    assert layers_of(names) == {
        "token_embd.weight": ["token_embd.weight"],
        "blk.0": ["blk.0.a.weight", "blk.0.b.weight"],
        "blk.10": ["blk.10.a.weight"],
    }


def test_parts_give_the_bytes_of_the_whole_and_an_interrupted_run_keeps_them(
    home: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    plain = optimized(home, out)
    whole = {name: (out / name).read_bytes() for name in ("measure.json", "plan.json")}
    whole[plain.artefact] = Path(plain.artefact).read_bytes()
    for name in whole:
        (out / name).unlink()
    with pytest.raises(KeyboardInterrupt):  # in the middle of measuring
        optimized(home, out, on="local", progress=Stops("blk.1"))
    measured = {path.parent.name for path in (out / "measure-layers").rglob("measure.json")}
    assert {"blk.0", "blk.1"} <= measured and "blk.2" not in measured
    again = Stops("blk.1")
    with pytest.raises(KeyboardInterrupt):  # in the middle of choosing values
        optimized(home, out, on="local", progress=again)
    assert layers(again) == ["blk.2", "blk.0", "blk.1"], "what was measured is kept"
    assert not Path(plain.artefact).exists()
    last = Stops("no such layer")
    spread = optimized(home, out, on="local", progress=last)
    assert layers(last) == ["blk.2"] and spread.gate == "proved"
    assert {name: (out / name).read_bytes() for name in whole} == whole
    assert not list(out.glob("*-layers")) and not list(out.rglob("*.partial"))


def layers(progress: Stops) -> list[str]:
    """The layers that were worked on, in that order."""
    return [detail for detail in progress.seen if re.fullmatch(r"blk\.\d+", detail)]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"on": "github"}, "runs whole recipes"),
        ({"on": "rai"}, "there is no executor 'rai' (did you mean ray?)"),
        ({"on_set": "cpus=2"}, "no executor"),
        ({"on": "local", "on_set": "cpus=2"}, "cpus"),
        ({"on": "local", "adapter": "lora"}, "kanna merge"),
    ],
)
def test_what_cannot_be_spread(
    home: Path, tmp_path: Path, given: dict[str, Any], problem: str
) -> None:
    with pytest.raises(UsageError) as caught:
        optimized(home, tmp_path / "out", **given)
    assert problem in str(caught.value) and not (tmp_path / "out").exists()

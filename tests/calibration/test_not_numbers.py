"""NaN in one expert: calibrate, convert and optimize say where, and write nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import kanna
from kanna.errors import EncodingError, KannaError

pytest.importorskip("torch")
pytest.importorskip("transformers")

from helpers import tiny_models  # noqa: E402 - needs torch

pytestmark = pytest.mark.usefixtures("small")
PLACES = {
    "qwen3-moe": ("mlp.experts.2.down_proj", "ffn_down_exps"),
    "mixtral": ("block_sparse_moe.experts.2.w1", "ffn_gate_exps"),
}
"""Of the second layer: the matrix of an expert, and the stack that it is a part of."""


@pytest.fixture(scope="module", params=PLACES)
def broken(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("broken") / request.param
    tiny_models.make(request.param, folder)
    values = load_file(folder / "model.safetensors")
    values[f"model.layers.1.{PLACES[request.param][0]}.weight"][7, 3] = np.nan
    save_file(values, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_weight_that_is_no_number_is_named(broken: Path, text: Path, tmp_path: Path) -> None:
    where = f"blk.1.{PLACES[broken.name][1]}.weight, row 7 of expert 2, holds NaN"
    read: Any = {"calibration": [text], "tokens": 1024}
    with pytest.raises(KannaError, match="layer 1 are not numbers: " + where) as error:
        kanna.calibrate(broken, tmp_path / "statistics", **read)
    assert "--nonfinite zero" in str(error.value.todo)
    assert not list((tmp_path / "statistics").glob("*.json")), (
        "no index: nothing takes it for whole"
    )
    with pytest.raises(EncodingError, match=where):
        kanna.convert(broken, tmp_path / "model.gguf", preset="Q4_0")
    with pytest.raises(EncodingError, match=where):
        kanna.optimize(broken, tmp_path / "out", bpw=6, effort="fast", text=text, **read)
    assert not (tmp_path / "model.gguf").exists() and not list((tmp_path / "out").glob("*.gguf"))


def test_what_is_to_be_done_helps(broken: Path, tmp_path: Path) -> None:
    """A copy with zeros in their place is one that verbs take."""
    mended = tmp_path / "mended"
    kanna.convert(broken, mended, format="safetensors", nonfinite="zero")
    kanna.convert(mended, tmp_path / "model.gguf", preset="Q4_0")

"""A GGUF encoding of a third party, found by its entry point: named in a plan, written, listed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.plugging import plugged

from kanna import components, convert, encodings
from kanna.families import load_model
from kanna.plan import Plan, resolve
from kanna.sources import open_source

CODE = '''
"""INT8: signed bytes under one single-precision scale per 16 values."""

import numpy as np

from kanna.encodings.base import Encoding


def encode(encoding, x, method, weights, threads, guessed):
    blocks = x.reshape(-1, 16)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    codes = np.rint(blocks / np.where(scale > 0, scale, 1)).astype(np.int8)
    parts = [scale.astype(np.float32).view(np.uint8), codes.view(np.uint8)]
    return np.concatenate(parts, axis=1).reshape(len(x), -1)


def decode(encoding, data, cols):
    blocks = np.ascontiguousarray(data).reshape(-1, 20)
    scale = np.ascontiguousarray(blocks[:, :4]).view(np.float32)
    return (np.ascontiguousarray(blocks[:, 4:]).view(np.int8) * scale).reshape(len(data), cols)


ENCODING = Encoding(
    name="dummy",
    summary="INT8: signed bytes under one scale per 16 values",
    label="DUMMY",
    block=16,
    block_bytes=20,
    ggml_type=200,
    encoder=encode,
    decoder=decode,
)
'''


@pytest.fixture(autouse=True)
def dummy(tmp_path: Path) -> Iterator[None]:
    with plugged(tmp_path / "site", "kanna.encodings", "dummy", CODE, "ENCODING"):
        yield


def test_it_is_found_by_name_and_by_type() -> None:
    encoding = encodings.get("DUMMY")
    assert "dummy" in encodings.names() and encodings.by_ggml_type(200) is encoding
    x = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    np.testing.assert_allclose(encoding.decode(encoding.encode(x), 64), x, atol=0.02)


def test_a_plan_names_it(tiny_gguf: Path) -> None:
    model = load_model(open_source(tiny_gguf))
    rules = [{"pattern": "ffn_down", "encoding": "dummy"}]
    plan = Plan.model_validate({"name": "mine", "encoding": "q8_0", "rules": rules})
    by_name = {e.name: e.encoding.name for e in resolve(model, plan=plan).entries}
    assert by_name["blk.0.ffn_down.weight"] == "dummy" and by_name["blk.0.ffn_up.weight"] == "q8_0"


def test_a_file_carries_it(tiny_gguf: Path, tmp_path: Path) -> None:
    convert(tiny_gguf, tmp_path / "dummy.gguf", encoding="dummy")
    source, before = open_source(tmp_path / "dummy.gguf"), open_source(tiny_gguf)
    name = "blk.1.attn_q.weight"
    assert source.tensors[name].dtype == "dummy"
    np.testing.assert_allclose(
        source.tensors[name].rows(0, 4), before.tensors[name].rows(0, 4), atol=0.02
    )


def test_it_is_listed() -> None:
    [kind] = components("encodings", "dummy").kinds
    [component] = kind.components
    assert component.summary.startswith("INT8") and component.facts["type of ggml"] == 200

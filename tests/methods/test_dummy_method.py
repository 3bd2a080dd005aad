"""A method of a third party, found by its entry point: it chooses the values that are written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.plugging import plugged

from kanna import components
from kanna.cli.main import cli
from kanna.sources import open_source

CODE = '''
"""halve: half of every value, rounded to nearest."""

from dataclasses import dataclass

from kanna.methods.base import UNKNOWN, Method


@dataclass(frozen=True, slots=True, kw_only=True)
class Halve(Method):
    def encode(self, encoding, x, inputs=UNKNOWN, *, threads=1):
        return encoding.encode(x / 2, method="nearest", threads=threads)


METHOD = Halve(name="halve", summary="half of every value, rounded to nearest")
'''


@pytest.fixture(autouse=True)
def halve(tmp_path: Path) -> Iterator[None]:
    with plugged(tmp_path / "site", "kanna.methods", "halve", CODE, "METHOD"):
        yield


def test_it_converts_a_model(tiny_gguf: Path, tmp_path: Path) -> None:
    output = tmp_path / "half.gguf"
    words = [
        "convert",
        str(tiny_gguf),
        "-o",
        str(output),
        "--encoding",
        "q8_0",
        "--method",
        "halve",
    ]
    run = CliRunner().invoke(cli, words)
    assert run.exit_code == 0, run.output
    name = "blk.0.ffn_up.weight"
    before = open_source(tiny_gguf).tensors[name].rows(0, 8)
    after = open_source(output).tensors[name].rows(0, 8)
    np.testing.assert_allclose(2 * after, before, atol=0.05)


def test_it_is_listed() -> None:
    [kind] = components("methods", "halve").kinds
    [component] = kind.components
    assert component.summary == "Half of every value, rounded to nearest"

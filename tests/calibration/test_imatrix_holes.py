"""Importance matrices with holes: said, and the columns that were not measured are guessed."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from kanna.conversion import ConversionRequest, convert
from kanna.errors import PlanError
from kanna.formats import gguf
from kanna.model import num_rows

pytest.importorskip("transformers")
from helpers import tiny_models  # noqa: E402

LAYERS, WIDTH, FF = 3, 256, 512
INPUTS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up")
PARTS = dict.fromkeys(INPUTS, WIDTH) | {"ffn_down": FF}

ALL = {f"blk.{i}.{part}.weight": width for i in range(LAYERS) for part, width in PARTS.items()}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "tiny"
    tiny_models.make("llama", folder)
    return folder


def write_imatrix(path: Path, widths: dict[str, int], calls: int = 4, value: float = 1.0) -> Path:
    """In the older layout: entries of name, calls and sums; then the windows."""
    data = struct.pack("<i", len(widths))
    for name, width in widths.items():
        data += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", calls, width)
        data += (np.arange(1, width + 1) * value).astype("<f4").tobytes()
    path.write_bytes(data + struct.pack("<i", 10))
    return path


def made(source: Path, out: Path, **options: object) -> tuple[dict[str, bytes], str]:
    """Bytes of each tensor, and all notes."""
    request = ConversionRequest(preset="Q4_0", **options)  # pyright: ignore[reportArgumentType]
    notes = " ".join(convert(source, out, request).notes)
    tensors = gguf.read(out).tensors
    return {n: bytes(t.raw(0, num_rows(t))) for n, t in tensors.items()}, notes


HOLES = {
    "no attention": {n: w for n, w in ALL.items() if "ffn" in n},
    "no last layer": {n: w for n, w in ALL.items() if "blk.2" not in n},
    "one matrix": {"blk.1.ffn_up.weight": WIDTH},
}


@pytest.mark.parametrize("case", HOLES)
def test_a_hole_is_said_and_guessed(case: str, source: Path, tmp_path: Path) -> None:
    imatrix = write_imatrix(tmp_path / "holes.dat", HOLES[case])
    guessed, _ = made(source, tmp_path / "guessed.gguf")
    mixed, notes = made(source, tmp_path / "mixed.gguf", imatrix=imatrix)
    missing = [n for n in ALL if n not in HOLES[case]]
    assert f"no entry for {len(missing)} (" in notes and missing[0] in notes
    assert all(mixed[n] == guessed[n] for n in missing)
    assert all(mixed[n] != guessed[n] for n in HOLES[case])


@pytest.mark.parametrize("options", [{"calls": 0}, {"value": 0.0}])
def test_what_was_never_used_has_no_entry(
    options: dict[str, float], source: Path, tmp_path: Path
) -> None:
    write_imatrix(tmp_path / "used.dat", ALL)
    data = bytearray((tmp_path / "used.dat").read_bytes())
    first = write_imatrix(tmp_path / "one.dat", dict([next(iter(ALL.items()))]), **options)  # pyright: ignore
    entry = first.read_bytes()[4:-4]
    data[4 : 4 + len(entry)] = entry
    (tmp_path / "used.dat").write_bytes(data)
    _, notes = made(source, tmp_path / "out.gguf", imatrix=tmp_path / "used.dat")
    assert "no entry for 1 (blk.0.attn_q.weight)" in notes


def test_a_whole_matrix_has_no_remark(source: Path, tmp_path: Path) -> None:
    _, notes = made(source, tmp_path / "out.gguf", imatrix=write_imatrix(tmp_path / "all.dat", ALL))
    assert "entry" not in notes and "entries" not in notes


def test_entries_of_a_larger_model_are_said(source: Path, tmp_path: Path) -> None:
    larger = ALL | {"blk.3.ffn_up.weight": WIDTH}
    imatrix = write_imatrix(tmp_path / "larger.dat", larger)
    _, notes = made(source, tmp_path / "out.gguf", imatrix=imatrix)
    assert "blk.3.ffn_up.weight" in notes and "another model" in notes


@pytest.mark.parametrize(
    ("widths", "says"),
    [
        (ALL | {"blk.0.attn_q.weight": WIDTH // 2}, r"blk\.0\.attn_q\.weight"),
        ({"v.blk.0.attn_q.weight": WIDTH}, "names no tensor"),
    ],
)
def test_a_matrix_of_another_model_is_refused(
    widths: dict[str, int], says: str, source: Path, tmp_path: Path
) -> None:
    imatrix = write_imatrix(tmp_path / "other.dat", widths)
    with pytest.raises(PlanError, match=says):
        made(source, tmp_path / "out.gguf", imatrix=imatrix)
    assert not (tmp_path / "out.gguf").exists()

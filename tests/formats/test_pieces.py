"""Pieces of files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from kanna.errors import FormatError
from kanna.formats import cutting, pieces
from kanna.formats.patchwork import KnownPieces, Patchwork


def test_an_insertion_changes_the_pieces_around_it_alone(tmp_path: Path) -> None:
    data = np.random.default_rng(7).integers(0, 256, 1_500_000, np.uint8).tobytes()
    first, second = tmp_path / "a.bin", tmp_path / "b.bin"
    first.write_bytes(data)
    second.write_bytes(data[:700_000] + b"inserted" + data[700_000:])
    before, after = cutting.cut(first), cutting.cut(second)
    assert before.num_bytes == len(data) and len(before.sizes) > 20
    assert len(set(after.hashes) - set(before.hashes)) <= 2


def test_tensors_begin_pieces(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"a": np.zeros(3 << 20, np.uint8), "b": np.ones(9 << 20, np.uint8)}, path)
    sizes = cutting.cut(path).sizes
    assert sizes[-4:] == (3 << 20, 4 << 20, 4 << 20, 1 << 20)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"sizes": [5, 4]},
        {"sizes": [10, 0]},
        {"hashes": ["x" * 64, "0" * 64]},
        {"hashes": ["0" * 64]},
        {"sizes": "many"},
    ],
)
def test_lists_of_strangers_are_checked(change: dict[str, object]) -> None:
    good = {"format": pieces.KIND, "sizes": [5, 5], "hashes": ["0" * 64, "1" * 64]}
    assert pieces.read(good, 10, "it").sizes == (5, 5)
    with pytest.raises(FormatError):
        pieces.read(good | change, 10, "it")


def test_little_that_is_here_is_fetched_with_what_is_around(tmp_path: Path) -> None:
    sizes = (100_000, 1000, 100_000, 200_000, 5)
    hashes = tuple(f"{n:064}" for n in range(5))
    known = KnownPieces()
    here = pieces.FilePieces(sizes=(1000, 200_000), hashes=(hashes[1], hashes[3]))
    known.add(tmp_path / "none", here)
    work = Patchwork(pieces.FilePieces(sizes=sizes, hashes=hashes), known)
    assert work.num_lacking() == 200_005
    assert work.fetched_until(50) == 201_000 and work.fetched_until(401_000) == 401_005
    assert work.here(201_000) is None, "the file is not there"
    assert work.fetched_until(201_000) == 401_005, "and is not asked again"

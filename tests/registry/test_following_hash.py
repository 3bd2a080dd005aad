"""A hash that follows the writer of a file."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from kanna.registry.following_hash import FollowingHash


def test_it_is_that_of_what_was_written(tmp_path: Path) -> None:
    path, hashed = tmp_path / "f", hashlib.sha256()
    with path.open("wb", buffering=0) as file:
        following = FollowingHash(path)
        assert following.hexdigest() == hashed.hexdigest()
        for size in (1, 3 << 20, 9 << 20, 40 << 20, 5):
            data = os.urandom(size)
            file.write(data)
            hashed.update(data)
            following.grown_to(file.tell())
    assert following.hexdigest() == hashed.hexdigest() == following.hexdigest()
    following.close()


def test_a_file_that_is_cut_short_meanwhile_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"1234")
    following = FollowingHash(path)
    following.grown_to(10)
    with pytest.raises(OSError, match="cut short"):
        following.hexdigest()
    following.close()

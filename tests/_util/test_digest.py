"""Hashes begun ahead of time are those of the file as it is when it is asked for."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from kanna._util import digest


@pytest.mark.parametrize("size", [0, 1, 300], ids=["empty", "one byte", "slices"])
def test_a_file_has_one_hash(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "_SLICE", 100)
    path = tmp_path / "a"
    path.write_bytes(bytes(range(256)) * 2)
    path.write_bytes(path.read_bytes()[:size])
    want, slices = hashlib.sha256(path.read_bytes()).hexdigest(), list[int]()
    assert digest.sha256(path, slices.append) == want
    assert sum(slices) == size
    digest.begin([path, tmp_path / "absent"])
    slices.clear()
    assert digest.sha256(path, slices.append) == want
    assert sum(slices) == size
    assert digest.sha256(path) == want


def test_a_file_that_changed_is_hashed_again(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"before")
    digest.begin([path])
    path.write_bytes(b"after it")
    assert digest.sha256(path) == hashlib.sha256(b"after it").hexdigest()


def test_a_file_cut_short_meanwhile_is_no_end_of_the_process(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from kanna._util import digest\n"
        "path = Path(sys.argv[1])\n"
        "digest.begin([path]); time.sleep(0.02); path.write_bytes(b'short')\n"
        "time.sleep(0.5); print(digest.sha256(path))"
    )
    path = tmp_path / "model.gguf"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    run = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout.strip()) == (0, hashlib.sha256(b"short").hexdigest())

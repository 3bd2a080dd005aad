"""A disk that is too small for a calibration: said before anything is written."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import kanna
from kanna import families
from kanna.calibration import disk, gradients
from kanna.errors import OutputError

pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.mark.usefixtures("small")
def test_a_disk_that_is_too_small_is_told_before_anything_is_written(
    llama: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = families.load_decoder(kanna.open_source(llama))
    made = kanna.calibrate(llama, tmp_path / "made", calibration=[text], tokens=1024)
    tokens = made.tokens + made.held_tokens
    needed = disk.bytes_needed(model, tokens, 4096)
    width = model.tensors["token_embd.weight"].shape[1]
    spools = 2 * 4 * tokens * width
    assert 0.5 * (made.bytes + spools) < needed < made.bytes + spools

    def free(nbytes: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=nbytes))  # pyright: ignore[reportUnknownLambdaType]

    free(needed - 1)
    with pytest.raises(OutputError, match="spooled"):
        kanna.calibrate(llama, tmp_path / "out", calibration=[text], tokens=1024)
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    # What an interrupted run left in the folder needs no room once more.
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "layer-00000.safetensors").write_bytes(bytes(10))
    free(needed - 10)
    kanna.calibrate(llama, tmp_path / "out", calibration=[text], tokens=1024)


@pytest.mark.usefixtures("small")
def test_a_disk_that_is_too_small_for_the_backward_pass(
    llama: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told before the first pass; a disk that fills up beneath it all the same is told, too."""
    model = families.load_decoder(kanna.open_source(llama))
    layers = len({name.split(".")[1] for name in model.tensors if name.startswith("blk.")})
    width = model.tensors["token_embd.weight"].shape[1]
    without, needed = (
        disk.bytes_needed(model, 1024, 4096, gradients=given) for given in (False, True)
    )
    assert needed - without == 4 * 1024 * width * (layers + 3 - 2)
    free = SimpleNamespace(free=(without + needed) // 2)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: free)  # pyright: ignore[reportUnknownLambdaType]
        with pytest.raises(OutputError, match="free"):
            kanna.calibrate(
                llama, tmp_path / "out", calibration=[text], tokens=1024, gradients=True
            )
        assert not list(tmp_path.iterdir())
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(gradients.BackwardPass, "run", _raising(full))
    with pytest.raises(OutputError, match="is full"):
        kanna.calibrate(llama, tmp_path / "out", calibration=[text], tokens=1024, gradients=True)
    assert not (tmp_path / "out" / gradients.STATE_FOLDER).exists()


def _raising(error: Exception) -> Any:
    def run(_: object) -> None:
        raise error

    return run

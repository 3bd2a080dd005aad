"""Outputs that are no plain file: a device, a pipe, a link, a folder that is not there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from kanna.conversion import ConversionRequest, WriteOptions, convert
from kanna.errors import OutputError

pytest.importorskip("transformers")
from helpers import tiny_models  # noqa: E402

pytestmark = pytest.mark.skipif(os.name != "posix", reason="names of POSIX")
REQUESTS = {"gguf": ConversionRequest(preset="Q8_0"), "mlx": ConversionRequest(preset="q8")}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "tiny"
    tiny_models.make("llama", folder)
    return folder


def write(source: Path, out: str | Path, format: str = "gguf") -> Path:
    options = WriteOptions(overwrite=True)
    return convert(source, out, REQUESTS[format], format=format, options=options).paths[0]


@pytest.mark.parametrize("format", REQUESTS)
@pytest.mark.parametrize("name", ["/dev/null", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "-"])
def test_nothing_is_written_to_a_device(format: str, name: str, source: Path) -> None:
    with pytest.raises(OutputError, match="no plain file"):
        write(source, name, format)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


@pytest.mark.parametrize("format", REQUESTS)
@pytest.mark.parametrize("linked", [False, True])
def test_a_pipe_is_left_alone(format: str, linked: bool, source: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    out = tmp_path / "link" if linked else pipe
    if linked:
        out.symlink_to(pipe)
    with pytest.raises(OutputError, match="no plain file"):
        write(source, out, format)
    assert stat.S_ISFIFO(pipe.stat().st_mode) and out.is_symlink() == linked


@pytest.mark.parametrize("format", REQUESTS)
@pytest.mark.parametrize("there", [False, True])
def test_a_link_stays_one(format: str, there: bool, source: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    target = tmp_path / "models" / "real"
    if there:
        target.write_bytes(b"old") if format == "gguf" else target.mkdir()
    link = tmp_path / "link"
    link.symlink_to(target)
    write(source, link, format)
    assert link.is_symlink() and target.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "models"]
    assert [p.name for p in target.parent.iterdir()] == ["real"]


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_is_no_name_of_a_file(there: bool, source: Path, tmp_path: Path) -> None:
    if there:
        (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="folder") as raised:
        write(source, f"{tmp_path}/out/")
    assert "out/model.gguf" in raised.value.todo
    assert [p.name for p in tmp_path.iterdir()] == ["out"] * there


def test_a_folder_may_end_in_a_slash(source: Path, tmp_path: Path) -> None:
    write(source, f"{tmp_path}/out/", "mlx")
    assert (tmp_path / "out" / "config.json").is_file()

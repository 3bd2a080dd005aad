"""The wheel of kanna in a package: where it comes from, and that targets install it by its hash."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from helpers import wheels

from kanna.errors import MissingError, UsageError
from kanna.packaging import package, wheel
from kanna.packaging.wheel import wheel_to_ship


def _nothing(*_: object) -> None:
    return None


def test_targets_install_the_wheel_by_its_hash(packaged: Path) -> None:
    [shipped] = (packaged / "wheels").iterdir()
    digest = sha256(shipped.read_bytes()).hexdigest()
    assert f"{digest}  wheels/{shipped.name}" in (packaged / "SHA256SUMS").read_text().splitlines()
    for name in ("Dockerfile", "README.md"):
        text = (packaged / name).read_text()
        assert digest in text and f"{shipped.name}[serve]" in text
    others = [p for p in packaged.rglob("*") if p.is_file() and p.suffix != ".whl"]
    assert not [p for p in others if b"kanna[serve]==" in p.read_bytes()]


def test_a_named_wheel_is_taken(packable: Path, tmp_path: Path) -> None:
    named = wheels.make(tmp_path)
    arm = named.rename(tmp_path / named.name.replace("x86_64", "aarch64"))
    result = package(packable, tmp_path / "out", context=256, wheel=arm)
    assert f"wheels/{arm.name}" in result.files and "wheels/.keep" not in result.files


def test_source_code_without_a_wheel_is_refused(
    packable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheel, "_installed", _nothing)
    monkeypatch.setattr(wheel, "_built", _nothing)
    with pytest.raises(MissingError, match="make wheels"):
        package(packable, tmp_path / "out", context=256)
    assert not (tmp_path / "out").exists()
    # Ollama runs the file without kanna.
    assert package(packable, tmp_path / "out", to=["ollama"], context=256).files


@pytest.mark.parametrize("content", [b"no archive", None])
def test_what_is_no_wheel_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "kanna_edge-0.1.0-py3-none-any.whl"
    if content is None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme", "")
    else:
        path.write_bytes(content)
    with pytest.raises(UsageError, match="not a wheel"), wheel_to_ship(path):
        pass


@pytest.mark.parametrize(
    ("wanted", "other", "message"),
    [
        ("Name: kanna-edge", "Name: kanna", "wheel of 'kanna'"),
        ("Version: 0.1.0", "Version: 0.0.9", "is kanna 0.0.9"),
    ],
)
def test_a_wheel_of_another_project_or_version_is_refused(
    wanted: str, other: str, message: str, tmp_path: Path
) -> None:
    source = wheels.make(tmp_path)
    (tmp_path / "other").mkdir()
    path = tmp_path / "other" / source.name
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        name = next(n for n in old.namelist() if n.endswith("METADATA"))
        new.writestr(name, old.read(name).decode().replace(wanted, other))
    with pytest.raises(UsageError, match=message), wheel_to_ship(path):
        pass


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[metadata.Distribution]:
    """A kanna that was installed from a wheel."""
    with zipfile.ZipFile(wheels.make(tmp_path)) as archive:
        archive.extractall(tmp_path / "site")
    [found] = metadata.distributions(name="kanna-edge", path=[str(tmp_path / "site")])
    yield found


def test_installed_files_are_packed_again(installed: metadata.Distribution, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    pack: Any = wheel._pack  # pyright: ignore[reportPrivateUsage]
    first, second = pack(installed, tmp_path / "a"), pack(installed, tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()
    assert first.name.endswith("-cp310-abi3-linux_x86_64.whl")
    with zipfile.ZipFile(first) as archive:
        names = archive.namelist()
        assert "kanna/cli/main.py" in names and not [n for n in names if n.endswith(".pyc")]
        record = archive.read("kanna_edge-0.1.0.dist-info/RECORD").decode()
    assert record.count("sha256=") == len(names) - 1

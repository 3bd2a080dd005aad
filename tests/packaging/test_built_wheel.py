"""A wheel of `make wheels` in a fresh environment, on a PATH without any compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WHEELS = sorted((ROOT / "dist").glob("kanna_edge-*.whl"))


@pytest.mark.slow
@pytest.mark.skipif(not WHEELS, reason="make wheels has made none")
def test_wheels_are_for_every_python_and_an_old_glibc() -> None:
    for wheel in WHEELS:
        assert "-cp310-abi3-manylinux_2_" in wheel.name
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
        assert {"kanna/_native.abi3.so", "kanna/sources/texts/stories.txt"} <= {*names}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the wheels are for Linux")
def test_the_first_step_of_the_demo_needs_no_compiler(tmp_path: Path) -> None:
    wheel = next((p for p in WHEELS if p.stem.endswith(os.uname().machine)), None)
    if wheel is None:
        pytest.skip("make wheels has made none for this machine")
    venv.create(tmp_path / "venv", with_pip=True)
    binaries = tmp_path / "venv" / "bin"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["PATH"] = str(binaries)
    assert not any(shutil.which(c, path=str(binaries)) for c in ("cc", "gcc", "g++", "cmake"))

    def run(*command: str | Path) -> str:
        done = subprocess.run(
            [str(c) for c in command], env=environment, cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(binaries / "python", "-m", "pip", "install", "-q", "--only-binary", ":all:", wheel)
    assert "0.1.0" in run(binaries / "kanna", "--version")
    out = tmp_path / "first.gguf"
    run(binaries / "kanna", "convert", "builtin:stories15m", "-o", out, "--preset", "Q4_K_M")
    assert out.stat().st_size > 20_000_000

"""Bytes are a promise.

Every encoder gives the bytes of tests/golden, on every instruction set, and on aarch64.

When an encoder is meant to change: `python tests/fixed.py` writes the golden hashes again.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import fixed, needs

from kanna import _native
from kanna.encodings import _core

ROOT = Path(__file__).parents[2]
GOLDEN = json.loads(fixed.GOLDEN.read_text())
ENCODED = 11
"""Rows that native/tests/hashes.cpp encodes."""
NATIVE = [n for n in GOLDEN if n not in {"f16", "bf16"}]


@pytest.fixture(params=_native.simd_available())
def simd(request: pytest.FixtureRequest) -> Iterator[str]:
    before = _native.simd()
    assert _native.set_simd(request.param)
    yield request.param
    _native.set_simd(before)


def test_every_encoder_of_ours_has_golden_hashes() -> None:
    assert sorted(GOLDEN) == sorted(fixed.ENCODERS)


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("name", GOLDEN)
def test_bytes_are_the_golden_ones(name: str, threads: int, simd: str) -> None:
    found = {kind: fixed.digest(name, kind, threads) for kind in fixed.kinds(name)}
    assert found == GOLDEN[name], (
        f"the encoder of {name} changed; if it was meant to: python tests/fixed.py"
    )


def fnv(data: bytes, state: int = 1469598103934665603) -> int:
    """FNV-1a, the hash that native/tests/hashes.cpp prints."""
    for byte in data:
        state = (state ^ byte) * 1099511628211 & 0xFFFFFFFFFFFFFFFF
    return state


def hashes_here(name: str) -> Iterator[tuple[str, str, str]]:
    """(encoding, kind, hash) of this machine's module, over encoded bytes and decoded values."""
    x, weights = fixed.source()
    x = x[:ENCODED]
    for kind in ("nearest", "search", "weighted"):
        data = np.empty_like(fixed.encoded(name, kind)[:ENCODED])
        _native.encode(
            name,
            x,
            data,
            kind != "nearest",
            *((weights, _core.UNIFORM) if kind == "weighted" else (None, _core.LEVEL_MAGNITUDE)),
            1,
        )
        back = np.empty_like(x)
        _native.decode(name, data, back)
        yield name, kind, f"{fnv(back.tobytes(), fnv(data.tobytes())):016x}"


@pytest.mark.parametrize("optimize", ["-O1", pytest.param("-O2", marks=pytest.mark.slow)])
def test_aarch64_gives_the_same_bytes(optimize: str) -> None:
    """The native test program, built for aarch64 with our flags, prints our hashes under qemu.

    -O2, as a wheel has it, takes twice as long to compile; -O1 stands for it: what must not differ
    (products that are fused, sums in another order) the flags beside it forbid at every level.
    """
    packages = "g++-aarch64-linux-gnu, qemu-user and cmake"
    compiler = needs.program("aarch64-linux-gnu-g++", install=packages)
    qemu = needs.program("qemu-aarch64", "qemu-aarch64-static", install=packages)
    cmake = needs.program("cmake", install=packages)
    # Kept between runs: compiling takes half a minute.
    build = ROOT / "build" / f"aarch64{optimize}"
    configure = [
        cmake,
        "-S",
        str(ROOT),
        "-B",
        str(build),
        "-DKANNA_TESTS=ON",
        f"-DKANNA_OPTIMIZE={optimize}",
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        f"-DCMAKE_CXX_COMPILER={compiler}",
        "-DCMAKE_EXE_LINKER_FLAGS=-static",
    ]
    for command in (configure, [cmake, "--build", str(build), "-j", str(os.cpu_count())]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    arm = subprocess.run([qemu, str(build / "hashes")], check=True, capture_output=True, text=True)
    theirs = {tuple(line.split()[1:]) for line in arm.stdout.splitlines()}
    assert theirs == {line for name in NATIVE for line in hashes_here(name)}

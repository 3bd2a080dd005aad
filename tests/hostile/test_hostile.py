"""Files that lie: parsers refuse them at once, and do not allocate what they promise."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import pytest
from helpers.making import entry, gguf_bytes, info, safetensors_bytes, text
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kanna.errors import FormatError, KannaError, UnsupportedError
from kanna.formats import gguf, safetensors
from kanna.formats.safetensors import read_file

BUDGET = 4_000_000
"""Bytes that refusing a small hostile file may allocate."""

GGUF = {
    "wrong magic": (gguf_bytes(magic=b"GGML"), "GGUF"),
    "big-endian": (gguf_bytes(version=3 << 24), "big-endian"),
    "old version": (gguf_bytes(version=1), "version 1"),
    "future version": (gguf_bytes(version=99), "version 99"),
    "huge tensor count": (gguf_bytes(tensors=1 << 60), "promises"),
    "huge key count": (gguf_bytes(keys=1 << 60), "promises"),
    "huge key": (gguf_bytes(keys=1, body=struct.pack("<Q", 1 << 50) + bytes(64)), "name of"),
    "huge string": (
        gguf_bytes(kvs=(text("a") + struct.pack("<IQ", 8, 1 << 50),), body=bytes(64)),
        "truncated or hostile",
    ),
    "huge array": (
        gguf_bytes(kvs=(text("a") + struct.pack("<IIQ", 9, 4, 1 << 50),), body=bytes(64)),
        "truncated or hostile",
    ),
    "huge string array": (
        gguf_bytes(kvs=(text("a") + struct.pack("<IIQ", 9, 8, 1 << 50),), body=bytes(64)),
        "array of",
    ),
    "lying string array": (
        gguf_bytes(
            kvs=(text("a") + struct.pack("<IIQ", 9, 8, 4) + struct.pack("<Q", 1 << 40),),
            body=bytes(64),
        ),
        "past the file",
    ),
    "arrays within arrays": (
        gguf_bytes(
            kvs=(text("a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 40,), body=bytes(64)
        ),
        "nested",
    ),
    "unknown value type": (
        gguf_bytes(kvs=(text("a") + struct.pack("<I", 77),), body=bytes(64)),
        "value type 77",
    ),
    "key twice": (
        gguf_bytes(kvs=(text("a") + struct.pack("<IB", 7, 1),) * 2, body=bytes(64)),
        "twice",
    ),
    "alignment of zero": (
        gguf_bytes(kvs=(text("general.alignment") + struct.pack("<II", 4, 0),), body=bytes(64)),
        "general.alignment",
    ),
    "alignment of 48": (
        gguf_bytes(kvs=(text("general.alignment") + struct.pack("<II", 4, 48),), body=bytes(64)),
        "power of two",
    ),
    "removed type": (gguf_bytes(infos=(info("a", [32], kind=4),), data=bytes(64)), "removed"),
    "unknown type": (
        gguf_bytes(infos=(info("a", [32], kind=4096),), data=bytes(64)),
        "unknown ggml type",
    ),
    "no dimensions": (gguf_bytes(infos=(info("a", []),), data=bytes(64)), "0 dimensions"),
    "nine dimensions": (gguf_bytes(infos=(info("a", [1] * 9),), data=bytes(64)), "9 dimensions"),
    "zero columns": (gguf_bytes(infos=(info("a", [0, 4]),), data=bytes(64)), "shape"),
    "overflowing shape": (
        gguf_bytes(infos=(info("a", [1 << 32, 1 << 32, 1 << 32]),), data=bytes(64)),
        "shape",
    ),
    "half a block": (
        gguf_bytes(infos=(info("a", [48], kind=8),), data=bytes(64)),
        "multiple of 32",
    ),
    "past the end": (gguf_bytes(infos=(info("a", [64]),), data=bytes(64)), "truncated"),
    "offset past the end": (
        gguf_bytes(infos=(info("a", [8], offset=1 << 40),), data=bytes(64)),
        "truncated",
    ),
    "odd offset": (gguf_bytes(infos=(info("a", [8], offset=8),), data=bytes(64)), "multiple of 32"),
    "overlap": (
        gguf_bytes(infos=(info("a", [16]), info("b", [16], offset=32)), data=bytes(128)),
        "overlaps",
    ),
    "tensor twice": (
        gguf_bytes(infos=(info("a", [8]), info("a", [8], offset=32)), data=bytes(64)),
        "twice",
    ),
    "header cut": (gguf_bytes(infos=(info("a", [8]),))[:40], "promises"),
    "empty": (b"", "empty"),
}

SAFETENSORS = {
    "empty": (b"", "empty"),
    "seven bytes": (b"1234567", "7 bytes"),
    "oversized header": (struct.pack("<Q", 1 << 40) + b"{}", "header"),
    "header past the end": (struct.pack("<Q", 4096) + b"{}", "header"),
    "not JSON": (safetensors_bytes(b"{'a'"), "not JSON"),
    "deep JSON": (safetensors_bytes(b"[" * 100_000), "not JSON"),
    "a list": (safetensors_bytes(b"[]"), "list"),
    "truncated": (safetensors_bytes({"a": entry("F32", [4], 0, 16)}, bytes(8)), "truncated"),
    "trailing bytes": (safetensors_bytes({"a": entry("F32", [4], 0, 16)}, bytes(99)), "follow"),
    "overlapping offsets": (
        safetensors_bytes(
            {"a": entry("F32", [4], 0, 16), "b": entry("F32", [4], 8, 24)}, bytes(24)
        ),
        "overlaps",
    ),
    "gap": (
        safetensors_bytes(
            {"a": entry("F32", [4], 0, 16), "b": entry("F32", [4], 32, 48)}, bytes(48)
        ),
        "gap",
    ),
    "lying shape": (safetensors_bytes({"a": entry("F32", [400], 0, 16)}, bytes(16)), "16 bytes"),
    "negative shape": (
        safetensors_bytes({"a": entry("F32", [-2, -2], 0, 16)}, bytes(16)),
        "whole numbers",
    ),
    "overflowing shape": (
        safetensors_bytes({"a": entry("F32", [1 << 40] * 4, 0, 16)}, bytes(16)),
        "bytes",
    ),
    "begin after end": (safetensors_bytes({"a": entry("F32", [4], 16, 0)}, bytes(16)), "bytes"),
    "text for a number": (
        safetensors_bytes({"a": entry("F32", ["4"], 0, 16)}, bytes(16)),
        "whole numbers",
    ),  # type: ignore[list-item]
    "no offsets": (
        safetensors_bytes({"a": {"dtype": "F32", "shape": [4]}}, bytes(16)),
        "malformed",
    ),
    "unknown dtype": (safetensors_bytes({"a": entry("Q7", [4], 0, 16)}, bytes(16)), "Q7"),
    "tensor twice": (
        safetensors_bytes(
            b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}',
            bytes(16),
        ),
        "twice",
    ),
}


def refuse(path: Path, read: object, says: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises((FormatError, UnsupportedError)) as caught:
            read(path)  # type: ignore[operator]
        assert tracemalloc.get_traced_memory()[1] < BUDGET
    finally:
        tracemalloc.stop()
    assert says in str(caught.value)
    assert path.name in str(caught.value)


@pytest.mark.parametrize("case", GGUF)
def test_hostile_gguf_is_refused(case: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.gguf"
    path.write_bytes(GGUF[case][0])
    refuse(path, gguf.read, GGUF[case][1])


@pytest.mark.parametrize("case", SAFETENSORS)
def test_hostile_safetensors_are_refused(case: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(SAFETENSORS[case][0])
    refuse(path, read_file, SAFETENSORS[case][1])


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_gguf_never_crashes(data: st.DataObject, tiny_gguf: Path, tmp_path: Path) -> None:
    """Bytes of a good header are changed and cut.

    Reading gives a file or a KannaError, within the budget.
    """
    damaged = _damage(data, tiny_gguf.read_bytes(), header=4096)
    path = tmp_path / "damaged.gguf"
    path.write_bytes(damaged)
    _read_or_refuse(lambda: gguf.read(path))


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_safetensors_never_crash(data: st.DataObject, tmp_path: Path) -> None:
    good = safetensors_bytes(
        {"a": entry("F32", [2, 4], 0, 32), "b": entry("BF16", [4], 32, 40)}, bytes(40)
    )
    path = tmp_path / "model.safetensors"
    path.write_bytes(_damage(data, good, header=len(good)))
    _read_or_refuse(lambda: read_file(path))


def _damage(data: st.DataObject, good: bytes, header: int) -> bytes:
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, min(header, len(damaged)) - 1))] = data.draw(
            st.integers(0, 255)
        )
    if data.draw(st.booleans()):
        del damaged[data.draw(st.integers(1, len(damaged))) :]
    return bytes(damaged)


def _read_or_refuse(read: object) -> None:
    tracemalloc.start()
    try:
        read()  # type: ignore[operator]
    except KannaError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < BUDGET


def test_index_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "../../etc/passwd"}}'
    )
    with pytest.raises(FormatError, match="plain file name"):
        safetensors.read_folder(tmp_path)


def test_missing_shard_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "model-00001-of-00002.safetensors"}}'
    )
    with pytest.raises(KannaError, match=r"model-00001-of-00002\.safetensors"):
        safetensors.read_folder(tmp_path)

"""Encodings: decoders give ggml's bits, encoders keep their promises on every instruction set."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from kanna import _native, encodings
from kanna.encodings import _ggml
from kanna.errors import EncodingError, UnsupportedError
from kanna.formats import gguf
from kanna.libllama import quantizers
from kanna.model import columns, num_rows

ALL = encodings.names()
CARRIED = {"f64", "i8", "i16", "i32", "i64"}
FLOATS = {"f32", "f16", "bf16"}
QUANTIZED = [n for n in ALL if n not in CARRIED | FLOATS]
NATIVE = [
    "q4_0",
    "q4_1",
    "q5_0",
    "q5_1",
    "q8_0",
    "q2_k",
    "q3_k",
    "q4_k",
    "q5_k",
    "q6_k",
    "iq4_nl",
    "iq4_xs",
]
VECTORS = ["iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s"]
NATIVE += VECTORS
SEARCHED = [n for n in NATIVE if n != "q8_0"]


@cache
def ggml_decode(number: int):  # noqa: ANN201
    """ggml's own function from rows of a type to float32."""

    class Traits(ctypes.Structure):
        _fields_ = [
            ("type_name", ctypes.c_char_p),
            ("blck_size", ctypes.c_int64),
            ("blck_size_interleave", ctypes.c_int64),
            ("type_size", ctypes.c_size_t),
            ("is_quantized", ctypes.c_bool),
            ("to_float", ctypes.c_void_p),
            ("from_float_ref", ctypes.c_void_p),
        ]

    lib = quantizers()
    lib.ggml_get_type_traits.restype = ctypes.POINTER(Traits)
    lib.ggml_get_type_traits.argtypes = [ctypes.c_int]
    lib.ggml_quantize_init.argtypes = [ctypes.c_int]
    lib.ggml_quantize_init(number)
    traits = lib.ggml_get_type_traits(number).contents
    convert = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(
        traits.to_float
    )

    def decode(data: np.ndarray, cols: int) -> np.ndarray:
        out = np.empty((data.shape[0], cols), np.float32)
        data = np.ascontiguousarray(data)
        convert(data.ctypes.data, out.ctypes.data, out.size)
        return out

    return traits, decode


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal bit by bit; any NaN equals any other, whose payload no reader looks at."""
    equal = (a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))
    return bool(equal.all())


def bell(rows: int, cols: int, seed: int = 0) -> np.ndarray:
    """Weights as models have them: columns of different spread, a few outliers."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, cols)) * np.exp(0.4 * rng.standard_normal(cols)) * 0.02
    x[rng.random(x.shape) < 1e-3] *= 8
    return x.astype(np.float32)


def importance(cols: int, seed: int = 0) -> np.ndarray:
    return np.exp(1.5 * np.random.default_rng(seed).standard_normal(cols)).astype(np.float32)


@pytest.fixture(params=_native.simd_available())
def simd(request: pytest.FixtureRequest) -> Iterator[str]:
    before = _native.simd()
    assert _native.set_simd(request.param)
    yield request.param
    _native.set_simd(before)


@pytest.mark.parametrize("name", [n for n in ALL if n not in CARRIED | {"f32"}])
def test_sizes_are_ggmls(name: str) -> None:
    encoding = encodings.get(name)
    traits, _ = ggml_decode(encoding.ggml_type)
    assert (traits.blck_size, traits.type_size) == (encoding.block, encoding.block_bytes)
    assert encodings.by_ggml_type(encoding.ggml_type) is encoding


@pytest.mark.parametrize("name", [n for n in ALL if n not in CARRIED | {"f32"}])
def test_decoders_give_ggmls_bits_on_random_bytes(name: str, simd: str) -> None:
    encoding = encodings.get(name)
    cols = 4 * max(encoding.block, 64)
    data = np.random.default_rng(3).integers(0, 256, (64, encoding.row_bytes(cols)), dtype=np.uint8)
    _, theirs = ggml_decode(encoding.ggml_type)
    assert same_bits(encoding.decode(data, cols), theirs(data, cols))


@pytest.mark.parametrize("name", QUANTIZED)
def test_decoders_give_ggmls_bits_on_encoded_weights(name: str) -> None:
    encoding = encodings.get(name)
    x = bell(8, 512)
    data = encoding.encode(x, weights=importance(512) if encoding.needs_weights else None)
    _, theirs = ggml_decode(encoding.ggml_type)
    assert same_bits(encoding.decode(data, 512), theirs(data, 512))


@pytest.mark.parametrize("name", ["f32", "f16", "bf16"])
def test_floats_round_as_ggml(name: str) -> None:
    encoding = encodings.get(name)
    x = np.random.default_rng(0).integers(0, 1 << 32, (64, 256), dtype=np.uint32).view(np.float32)
    x = np.where(np.isfinite(x), x, np.float32(1)).astype(np.float32)
    theirs = _ggml.quantize(encoding, x, None)
    assert np.array_equal(encoding.encode(x), theirs)


def test_f16_decodes_every_bit_pattern() -> None:
    """NaN with its payload, infinity, denormals, both zeros.

    And the finite ones without NaN beside them.
    """
    every = np.arange(1 << 16, dtype=np.uint16)
    for bits in (every, every[(every & 0x7C00) != 0x7C00], every[:0]):
        found = encodings.get("f16").decode(bits.view(np.uint8).reshape(1, -1), bits.size)
        assert np.array_equal(
            found[0].view(np.uint32), bits.view(np.float16).astype(np.float32).view(np.uint32)
        )


def test_real_files_decode_to_ggmls_bits(smollm2: Path) -> None:
    for tensor in list(gguf.read(smollm2).tensors.values())[:12]:
        data = tensor.raw(0, min(64, num_rows(tensor)))
        assert data is not None
        encoding = encodings.get(tensor.dtype)
        if encoding.block > 1:
            _, theirs = ggml_decode(encoding.ggml_type)
            assert same_bits(tensor.rows(0, data.shape[0]), theirs(data, columns(tensor)))


def error(x: np.ndarray, data: np.ndarray, name: str, weights: np.ndarray | None = None) -> float:
    off = (encodings.get(name).decode(data, x.shape[1]) - x).astype(np.float64) ** 2
    return float((off if weights is None else off * weights).sum())


SHAPES = ("bell", "heavy", "uniform", "shifted", "sparse")


def shaped(shape: str) -> np.ndarray:
    rng = np.random.default_rng(7)
    x = {
        "bell": lambda: bell(64, 1024),
        "heavy": lambda: rng.standard_t(3, (64, 1024)) * 0.02,
        "uniform": lambda: rng.uniform(-1, 1, (64, 1024)),
        "shifted": lambda: rng.standard_normal((64, 1024)) * 0.1 + 0.15,
        "sparse": lambda: np.where(
            rng.random((64, 1024)) < 0.1, rng.standard_normal((64, 1024)), 0
        ),
    }[shape]()
    return x.astype(np.float32)


@pytest.mark.parametrize("name", SEARCHED)
def test_weighted_error_is_below_ggmls(name: str) -> None:
    """On no kind of tensor higher, and lower on average."""
    w, encoding = importance(1024, 1), encodings.get(name)
    ratios: list[float] = []
    for shape in SHAPES:
        x = shaped(shape)
        theirs = error(x, _ggml.quantize(encoding, x, w), name, w)
        ratios.append(error(x, encoding.encode(x, weights=w), name, w) / theirs)
        assert ratios[-1] <= 1 + 1e-6, shape
    print(f"MEASURE {name} {np.mean(ratios):.4f}")
    assert np.mean(ratios) < 0.999


@pytest.mark.parametrize("name", NATIVE)
def test_search_is_no_worse_than_nearest(name: str) -> None:
    x, w = bell(32, 512), importance(512)
    encoding = encodings.get(name)
    nearest = error(x, encoding.encode(x, method="nearest"), name, w)
    assert error(x, encoding.encode(x, weights=w), name, w) < nearest


@pytest.mark.parametrize("name", NATIVE)
def test_bytes_do_not_depend_on_simd_or_threads(name: str) -> None:
    """37 rows: the last group of lanes is never full."""
    x, w = bell(37, 768), importance(768)
    encoding = encodings.get(name)
    before, found = _native.simd(), set()
    for isa in _native.simd_available():
        _native.set_simd(isa)
        for threads in (1, 2, 4):
            parts = [
                encoding.encode(x, method=m, weights=v, threads=threads)
                for m, v in (("nearest", None), ("search", None), ("search", w))
            ]
            found.add(b"".join(p.tobytes() for p in parts))
    _native.set_simd(before)
    assert len(found) == 1


@pytest.mark.parametrize("name", NATIVE)
def test_rows_are_independent(name: str) -> None:
    """A row has the same bytes alone as among others, so that row blocks may be cut anywhere."""
    x = bell(9, 512)
    encoding = encodings.get(name)
    alone = np.concatenate([encoding.encode(x[i : i + 1]) for i in range(9)])
    assert np.array_equal(alone, encoding.encode(x))


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("value", [0.0, 1e-30, 1e-7, 1.0, -3.0, 6e4])
def test_constant_blocks(name: str, value: float) -> None:
    x = np.full((2, 512), value, np.float32)
    for method in ("nearest", "search"):
        back = encodings.get(name).decode(encodings.get(name).encode(x, method=method), 512)
        assert np.isfinite(back).all()
        # Half-precision factors end at about 6e-8: what is far below becomes zero.
        assert np.abs(back - x).max() <= 0.04 * abs(value) + 1e-6


@pytest.mark.parametrize("name", NATIVE)
def test_huge_values_stay_finite(name: str) -> None:
    x = bell(2, 512) * np.float32(1e12)
    assert np.isfinite(encodings.get(name).decode(encodings.get(name).encode(x), 512)).all()


@pytest.mark.parametrize("name", NATIVE)
def test_columns_without_importance(name: str) -> None:
    x = bell(4, 512)
    w = np.zeros(512, np.float32)
    encoding = encodings.get(name)
    assert np.isfinite(encoding.decode(encoding.encode(x, weights=w), 512)).all()


@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nonfinite_values_are_refused(name: str, bad: float) -> None:
    x = bell(2, 512)
    x[1, 5] = bad
    with pytest.raises(EncodingError, match="1 of 1024 values"):
        encodings.get(name).encode(x)


@pytest.mark.parametrize("name", [n for n in QUANTIZED if encodings.get(n).block > 1])
def test_wrong_shapes_are_refused(name: str) -> None:
    encoding = encodings.get(name)
    with pytest.raises(EncodingError, match="multiple of"):
        encoding.encode(np.zeros((2, encoding.block + 1), np.float32))
    with pytest.raises(EncodingError, match="shape"):
        encoding.decode(np.zeros((2, 3), np.uint8), encoding.block)
    with pytest.raises(EncodingError, match="weights"):
        encoding.encode(np.zeros((2, encoding.block), np.float32), weights=np.ones(3, np.float32))
    with pytest.raises(EncodingError, match="method"):
        encoding.encode(np.zeros((2, encoding.block), np.float32), method="magic")


def test_removed_and_unknown_types_are_refused() -> None:
    for number in (4, 5, 31, 32, 33, 36, 37, 38):
        with pytest.raises(UnsupportedError, match="removed"):
            encodings.by_ggml_type(number)
    with pytest.raises(UnsupportedError, match="unknown"):
        encodings.by_ggml_type(999)

"""MLX's affine encodings: the bytes of mx.quantize, and searches that are never worse."""

from __future__ import annotations

import numpy as np
import pytest

from kanna import _native, encodings, methods
from kanna.encodings import affine_codes
from kanna.encodings.grouped import affine
from kanna.errors import EncodingError, UnsupportedError
from kanna.methods import Inputs
from kanna.methods.hessian import SecondMoment

TYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
SOME = ("affine2g128", "affine3g64", "affine4g32_f16", "affine5g64_f32", "affine6g64", "affine8g32")


def values(rows: int, cols: int, seed: int = 0) -> np.ndarray:
    x = (np.random.default_rng(seed).standard_normal((rows, cols)) * 0.03).astype(np.float32)
    x[0] = 0
    x[1] = 0.5
    x[2] = np.abs(x[2])
    x[3] = -np.abs(x[3])
    x[4] *= 1e-6
    x[5] *= 1e4
    x[6] = np.linspace(0.5, 0.500001, cols)
    return x


def stored_bytes(mx, array) -> np.ndarray:
    kind = {4: mx.uint32, 2: mx.uint16}[array.dtype.size]
    return np.array(array.view(kind)).view(np.uint8).reshape(array.shape[0], -1)


@pytest.mark.parametrize("number", affine.NUMBERS)
@pytest.mark.parametrize("group", affine_codes.GROUPS)
@pytest.mark.parametrize("bits", affine_codes.BITS)
def test_nearest_gives_the_planes_of_mlx(bits: int, group: int, number: str) -> None:
    mx = pytest.importorskip("mlx.core")
    encoding = encodings.get(affine.name_of(bits, group, number))
    x = values(40, 256, seed=bits * group)
    array = mx.array(x).astype(getattr(mx, TYPES[number]))
    wanted = mx.quantize(array, group_size=group, bits=bits, stream=mx.cpu)
    data = encoding.encode(x, method="nearest")
    for plane, part in zip(encoding.split(data), wanted, strict=True):
        assert np.array_equal(plane, stored_bytes(mx, part))
    assert np.array_equal(encoding.join(encoding.split(data)), data)


@pytest.mark.parametrize("name", SOME)
def test_values_are_those_of_the_numpy_twin(name: str) -> None:
    encoding = encodings.get(name)
    bits, group = int(encoding.settings["bits"]), int(encoding.settings["group_size"])
    x = values(24, 256)
    data = encoding.encode(x)
    codes, scales, biases = encoding.split(data)
    numbers = {"bf16": lambda a: (a.view(np.uint16).astype(np.uint32) << 16).view(np.float32)}
    numbers |= {
        "f16": lambda a: a.view(np.float16).astype(np.float32),
        "f32": lambda a: a.view(np.float32),
    }
    read = numbers[encoding.planes[1].dtype]
    twin = affine_codes.values(affine_codes.unpack(codes, bits), read(scales), read(biases))
    assert scales.size * group == x.size * encoding.planes[1].bytes
    assert np.array_equal(encoding.decode(data, 256), twin)


@pytest.mark.parametrize("name", [e.name for e in affine.ENCODINGS])
def test_no_group_is_worse_by_search_than_nearest(name: str) -> None:
    encoding = encodings.get(name)
    x = values(40, 256, seed=7)
    weights = np.random.default_rng(3).random(256).astype(np.float32)

    def errors(method: str) -> np.ndarray:
        data = encoding.encode(x, method=method, weights=weights)
        off = (encoding.decode(data, 256).astype(np.float64) - x) ** 2 * weights
        return off.reshape(len(x), -1, encoding.block).sum(2)

    before, after = errors("nearest"), errors("search")
    assert (after <= before * (1 + 1e-4) + 1e-18).all()
    assert after[7:].sum() < 0.9 * before[7:].sum()


@pytest.mark.parametrize("name", SOME)
def test_feedback_lowers_the_error_under_the_moment(name: str) -> None:
    encoding = encodings.get(name)
    rng = np.random.default_rng(11)
    inputs = rng.standard_normal((2000, 256)) @ (
        np.eye(256) + 0.1 * rng.standard_normal((256, 256))
    )
    h = (inputs.T @ inputs / len(inputs)).astype(np.float32)
    second_moment = SecondMoment(lambda: [h], shrink=0.0)
    x = values(33, 256, seed=5)[7:]
    known = Inputs(weights=h.diagonal().copy(), second_moment=second_moment)

    def cost(method: str) -> np.ndarray:
        data = methods.get(method).encode(encoding, x, known)
        off = encoding.decode(data, 256).astype(np.float64) - x
        return np.einsum(
            "ri,ij,rj->r", off, second_moment.blocks()[0].hessian.astype(np.float64), off
        )

    plain, found = cost("search"), cost("gptq")
    assert (found <= plain * (1 + 1e-3)).all()
    assert found.sum() < 0.6 * plain.sum()


def test_bytes_are_the_same_for_any_threads_and_instruction_set() -> None:
    x = values(50, 256)
    before, found = _native.simd(), set()
    try:
        for isa in _native.simd_available():
            _native.set_simd(isa)
            for threads in (1, 3):
                found.add(
                    b"".join(
                        encodings.get(name).encode(x, threads=threads).tobytes() for name in SOME
                    )
                )
    finally:
        _native.set_simd(before)
    assert len(found) == 1


@pytest.mark.parametrize(
    ("name", "said"), [("affine7g64", "7 bits"), ("affine4g48", "groups of 48")]
)
def test_widths_and_groups_that_mlx_has_not_are_refused(name: str, said: str) -> None:
    with pytest.raises(UnsupportedError, match=said):
        encodings.get(name)


def test_rows_that_no_group_divides_are_refused() -> None:
    with pytest.raises(EncodingError, match="multiple of 64"):
        encodings.get("affine4g64").encode(np.zeros((2, 96), np.float32))

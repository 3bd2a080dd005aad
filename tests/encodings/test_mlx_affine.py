"""MLX's affine codes against mlx itself."""

from __future__ import annotations

import numpy as np
import pytest

from kanna.encodings import affine_codes

mx = pytest.importorskip("mlx.core")
TYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("group", affine_codes.GROUPS)
@pytest.mark.parametrize("bits", affine_codes.BITS)
def test_nearest_gives_the_bytes_of_mlx(bits: int, group: int, dtype: str) -> None:
    x = (np.random.default_rng(bits * group).standard_normal((33, 256)) * 0.03).astype(np.float32)
    x[0] = 0
    x[1] = 0.5
    x[2] = np.abs(x[2])
    kind = getattr(mx, TYPES[dtype])
    weight, scales, biases = mx.quantize(
        mx.array(x).astype(kind), group_size=group, bits=bits, stream=mx.cpu
    )
    codes, ours, offsets = affine_codes.nearest(x, bits, group, dtype)
    packed = affine_codes.pack(codes, bits)
    assert packed.tobytes() == np.array(weight).tobytes()
    assert np.array_equal(ours, np.array(scales.astype(mx.float32)))
    assert np.array_equal(offsets, np.array(biases.astype(mx.float32)))
    assert np.array_equal(affine_codes.unpack(packed, bits), codes)


def test_values_are_those_of_mlx() -> None:
    x = np.random.default_rng(1).standard_normal((8, 128)).astype(np.float32)
    parts = mx.quantize(mx.array(x), group_size=64, bits=3, stream=mx.cpu)
    wanted = np.array(mx.dequantize(*parts, group_size=64, bits=3, stream=mx.cpu))
    codes, scales, biases = affine_codes.nearest(x, 3, 64, "f32")
    np.testing.assert_allclose(
        affine_codes.values(codes, scales, biases), wanted, rtol=0, atol=1e-6
    )

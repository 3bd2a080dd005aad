"""OpenVINO's nf4: its levels, what is stored, and how close it is."""

from __future__ import annotations

import numpy as np
import pytest

from kanna import encodings
from kanna.encodings.grouped import nf4
from kanna.errors import EncodingError, UnsupportedError


def values(rows: int = 40, cols: int = 256) -> np.ndarray:
    rng = np.random.default_rng(3)
    x = (rng.standard_normal((rows, cols)) * np.exp(rng.standard_normal((rows, 1)))).astype("f4")
    x[0], x[1], x[2] = 0, 1e-9, np.linspace(-1, 1, cols)
    return x


@pytest.mark.parametrize("group", nf4.GROUPS)
def test_rows_hold_codes_and_then_the_scale_of_each_group(group: int) -> None:
    encoding = encodings.get(nf4.name_of(group))
    x = values()
    data = encoding.encode(x, method="nearest")
    assert data.shape == (40, 256 // group * (group // 2 + 2))
    groups = np.abs(x).reshape(40, -1, group).max(axis=2, keepdims=True)
    off = np.abs(encoding.decode(data, 256) - x).reshape(40, -1, group)
    # Half of the widest gap between two levels, and what half precision takes from the scale.
    assert (off <= groups * (0.153 + 2**-10) + 1e-7).all()


def test_no_group_is_worse_by_search() -> None:
    encoding, x = encodings.get("nf4g64"), values()
    weights = np.random.default_rng(4).random(256).astype(np.float32)

    def errors(method: str) -> np.ndarray:
        data = encoding.encode(x, method=method, weights=weights)
        off = np.square(encoding.decode(data, 256) - x.astype(np.float64))
        return (weights * off).reshape(40, -1, 64).sum(axis=2)

    assert (errors("search") <= errors("nearest") * (1 + 1e-5) + 1e-12).all()
    assert errors("search").sum() < 0.95 * errors("nearest").sum()


def test_openvino_reads_the_same_values() -> None:
    openvino = pytest.importorskip("openvino")
    ops = openvino.opset13
    encoding, x = encodings.get("nf4g32"), values(8, 32)
    data = encoding.encode(x, method="search")
    tensor = openvino.Tensor(np.ascontiguousarray(data[:, :16]), [8, 32], openvino.Type.nf4)
    wide = ops.convert(openvino.op.Constant(tensor), "f32")
    compiled = openvino.Core().compile_model(openvino.Model([wide], []), "CPU")
    scales = data[:, 16:].copy().view("<f2").astype(np.float32)
    read = compiled([])[0] * scales
    assert np.allclose(read, encoding.decode(data, 32), rtol=1e-3, atol=1e-9)


def test_bad_input_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="groups of 48"):
        encodings.get("nf4g48")
    x = values()
    x[3, 3] = np.nan
    with pytest.raises(EncodingError, match="NaN"):
        encodings.get("nf4g32").encode(x)
    with pytest.raises(EncodingError, match="method"):
        encodings.get("nf4g32").encode(values(), method="best")

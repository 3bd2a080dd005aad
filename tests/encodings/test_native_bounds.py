"""What the native core is given is checked before it is read or written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kanna import _native, encodings

ROWS, COLS = 3, 64


def _floats(*shape: int) -> Any:
    return np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)


def _encode(**changes: Any) -> None:
    given: dict[str, Any] = {
        "name": "q4_0",
        "x": _floats(ROWS, COLS),
        "out": np.empty((ROWS, 36), np.uint8),
        "search": False,
        "weights": None,
        "weighting": 0,
        "threads": 1,
    }
    _native.encode(**(given | changes))


def _feedback(**changes: Any) -> None:
    data = np.empty((ROWS, 36), np.uint8)
    _native.encode("q4_0", _floats(ROWS, COLS), data, False, None, 0, 1)
    given: dict[str, Any] = {
        "name": "q4_0",
        "x": _floats(ROWS, COLS),
        "data": data,
        "h": np.eye(COLS, dtype=np.float32),
        "factors": None,
        "order": np.arange(COLS, dtype=np.int32),
        "rounds": 1,
        "errors": np.empty((ROWS, 2), np.float32),
        "threads": 1,
    }
    _native.feedback(**(given | changes))


def _factors(order: Any, n: int = 4) -> None:
    eye = np.eye(n, dtype=np.float32)
    _native.feedback_factors(eye, np.asarray(order, np.int32), np.empty_like(eye), 1)


def _unaligned(*shape: int) -> Any:
    count = int(np.prod(shape))
    return np.zeros(4 * count + 1, np.uint8)[1:].view(np.float32).reshape(shape)


def _read_only() -> Any:
    out = np.empty((ROWS, 36), np.uint8)
    out.setflags(write=False)
    return out


REFUSED: dict[str, Callable[[], None]] = {
    "columns of no block": lambda: _encode(x=_floats(ROWS, 33)),
    "too few rows to write": lambda: _encode(out=np.empty((ROWS - 1, 36), np.uint8)),
    "rows too short to write": lambda: _encode(out=np.empty((ROWS, 35), np.uint8)),
    "rows apart to write": lambda: _encode(out=np.empty((ROWS, 72), np.uint8)[:, ::2]),
    "another type to write": lambda: _encode(out=np.empty((ROWS, 36), np.float32)),
    "nothing to write to": lambda: _encode(out=_read_only()),
    "weights of other columns": lambda: _encode(weights=_floats(COLS + 1)),
    "no such weighting": lambda: _encode(weighting=5),
    "a negative weighting": lambda: _encode(weighting=-1),
    "values that are not aligned": lambda: _encode(x=_unaligned(ROWS, COLS)),
    "weights that are not aligned": lambda: _encode(weights=_unaligned(COLS)),
    "too little to decode": lambda: _native.decode(
        "q4_0", np.zeros((ROWS, 18), np.uint8), np.empty((ROWS, COLS), np.float32)
    ),
    "a column beyond the last": lambda: _factors([0, 1, 2, 4]),
    "a column before the first": lambda: _factors([0, 1, 2, -1]),
    "too few columns": lambda: _factors([0, 1, 2]),
    "a huge column": lambda: _factors([0, 1, 2, 2**31 - 1]),
    "an order beyond the last": lambda: _feedback(order=np.arange(1, COLS + 1, dtype=np.int32)),
    "an order before the first": lambda: _feedback(order=np.full(COLS, -1, np.int32)),
    "a moment of other columns": lambda: _feedback(h=np.eye(COLS - 1, dtype=np.float32)),
    "factors of other columns": lambda: _feedback(factors=np.eye(32, dtype=np.float32)),
    "errors of other rows": lambda: _feedback(errors=np.empty((ROWS + 1, 2), np.float32)),
    "errors of another type": lambda: _feedback(errors=np.empty((ROWS, 2), np.float64)),
    "codes apart": lambda: _feedback(data=np.empty((ROWS, 72), np.uint8)[:, ::2]),
    "powers of other columns": lambda: _native.row_powers(
        _floats(ROWS, COLS), _floats(COLS - 1), np.empty(ROWS, np.float32)
    ),
    "powers of other rows": lambda: _native.row_powers(
        _floats(ROWS, COLS), _floats(COLS), np.empty(ROWS - 1, np.float32)
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused(what: str) -> None:
    with pytest.raises((ValueError, TypeError)):
        REFUSED[what]()


@pytest.mark.parametrize("threads", [-1, 0, 1, 2, 3, 16, 1000])
@pytest.mark.parametrize("rows", [0, 1, 3, 40])
def test_more_threads_than_blocks(rows: int, threads: int) -> None:
    """The same bytes: threads that find no block left end at once."""
    q4_0, x = encodings.get("q4_0"), _floats(rows, COLS)
    assert (q4_0.encode(x, threads=threads) == q4_0.encode(x)).all()


def test_values_and_bytes_may_begin_anywhere() -> None:
    """Tensors lie in a mapped file wherever its header ends."""
    q4_k, x = encodings.get("q4_k"), _floats(ROWS, 256)
    apart = _unaligned(ROWS, 256)
    apart[:] = x
    data = q4_k.encode(x)
    assert (q4_k.encode(apart) == data).all()
    shifted = np.empty(data.nbytes + 1, np.uint8)[1:].reshape(data.shape)
    shifted[:] = data
    assert (q4_k.decode(shifted, 256) == q4_k.decode(data, 256)).all()

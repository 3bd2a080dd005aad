"""Threads that multiply for numpy."""

from __future__ import annotations

import pytest

from kanna._util import blas


def test_one_thread_multiplies_and_then_as_many_as_before() -> None:
    functions = blas._functions()
    if functions is None:
        with blas.one_thread():
            return pytest.skip("numpy multiplies with another library than its wheels have")
    get, put = functions
    before = get()
    try:
        put(2)
        with pytest.raises(ValueError, match="inside"), blas.one_thread():
            assert get() == 1
            raise ValueError("inside")
        assert get() == 2
    finally:
        put(before)

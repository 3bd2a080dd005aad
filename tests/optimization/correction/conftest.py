"""A quantized model for every test of correction, made once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="package")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A `helpers.correcting.Quantized`."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from helpers import correcting

    with correcting.quantized(tmp_path_factory.mktemp("correction")) as quantized:
        yield quantized

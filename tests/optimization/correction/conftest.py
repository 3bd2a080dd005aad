"""A quantized model for the tests of correction.

Made once in each file: what it sets for tiny models must not reach the next one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A `helpers.correcting.Quantized`."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from helpers import correcting

    with correcting.quantized(tmp_path_factory.mktemp("correction")) as quantized:
        yield quantized

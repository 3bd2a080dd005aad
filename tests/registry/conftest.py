from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def everything_in_the_own_cache(own_cache: None) -> None:
    pass

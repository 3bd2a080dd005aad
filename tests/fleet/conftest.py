"""A PostgreSQL for the tests of this folder, and the databases that they run on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import postgresql

# What holds for one database holds for the other; by default test_postgresql.py stands for it.
BOTH = ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)]


@pytest.fixture(scope="session")
def cluster() -> Iterator[postgresql.Cluster]:
    with postgresql.running() as made:
        yield made


@pytest.fixture(scope="module", params=BOTH)
def new_place(request: pytest.FixtureRequest) -> Callable[[Path], str | Path]:
    """Makes a place for a store, given a folder that is the test's."""
    if request.param == "sqlite":
        return lambda folder: folder / "f.sqlite"
    cluster: postgresql.Cluster = request.getfixturevalue("cluster")
    return lambda _: cluster.database()

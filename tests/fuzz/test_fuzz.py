"""The readers on damaged files: what was once wrong, a short run by a seed, and a long one.

`pytest -m fuzz` is the long one; `python -m fuzz.run` runs as long as it is told.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz import native, run, targets
from kanna import encodings

INPUTS = 12
"""Of each target, in the ordinary suite."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, targets.Target]:
    return targets.make(tmp_path_factory.mktemp("fuzz"))


def _run(made: dict[str, targets.Target], seed: int, seconds: float, inputs: int) -> list[str]:
    """What is wrong with how damaged files are read."""
    faults: list[str] = []
    run.fuzz(
        made,
        seed,
        seconds=seconds,
        inputs=inputs,
        report=lambda name, data, wrong: faults.append(f"{name}: {wrong}\n{data[:300]!r}"),
    )
    return faults


def test_inputs_that_were_read_wrongly_once(made: dict[str, targets.Target]) -> None:
    kept = sorted(run.CORPUS.iterdir())
    assert kept
    faults = [(p.name, run.fault(made[p.stem], p.read_bytes())) for p in kept]
    assert not [fault for fault in faults if fault[1]]


def test_damaged_files_are_refused_or_read(made: dict[str, targets.Target]) -> None:
    assert not _run(made, seed=1, seconds=600, inputs=INPUTS)


def test_a_reader_that_fails_is_seen(tmp_path: Path) -> None:
    def fail() -> None:
        raise TypeError("unhashable")

    target = targets.Target(path=tmp_path / "x", damage=lambda _: b"x", read=fail)
    assert "TypeError: unhashable" in _run({"x": target}, seed=0, seconds=60, inputs=1)[0]


@pytest.mark.parametrize("seed", [1, 2])
def test_the_native_core_takes_any_values(seed: int) -> None:
    """One matrix for each, of values, shapes, weights and bytes by chance."""
    names = ["Q4_0", "Q4_K", "Q6_K", "IQ4_NL"]
    names = [name for name in encodings.names() if name.upper() in names]
    assert len(names) == 4
    assert min(native.run(seed, seconds=0, names=names).values()) >= 1


@pytest.mark.fuzz
def test_damaged_files_for_ten_minutes(made: dict[str, targets.Target]) -> None:
    assert not _run(made, seed=2, seconds=600, inputs=1 << 40)

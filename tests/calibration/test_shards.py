"""Shards: what several machines measured of one text is what one machine measures of it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.calibrating import WINDOW

import kanna
from kanna.calibration import gradients, imatrix
from kanna.calibration import statistics as stored
from kanna.calibration.shards.part import Shard
from kanna.errors import FormatError, KannaError, OutputError, PlanError, UsageError

pytest.importorskip("torch")
pytest.importorskip("transformers")

from helpers import tiny_models  # noqa: E402 - needs torch

pytestmark = pytest.mark.usefixtures("small")
WINDOWS = 13  # two of them are held out


@pytest.fixture(scope="module", params=["llama", "mixtral"])
def parts(
    request: pytest.FixtureRequest,
    small: None,
    text: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A model, its statistics as a whole, in three shards, and merged from them."""
    base = tmp_path_factory.mktemp("shards")
    tiny_models.make(request.param, base / "model")
    for name, shard in (("whole", None), *((f"part-{i}", f"{i}/3") for i in (1, 2, 3))):
        kanna.calibrate(
            base / "model",
            base / name,
            calibration=[text],
            tokens=WINDOWS * WINDOW,
            shard=shard,
            gradients=True,
        )
    shards = [base / f"part-{i}" for i in (3, 1, 2)]
    result = kanna.statistics("merge", shards, base / "merged", source=base / "model")
    assert result.gradients and result.tokens == 11 * WINDOW
    assert result.shards == [str(base / f"part-{i}") for i in (1, 2, 3)]
    return base


def test_merged_is_the_whole(parts: Path) -> None:
    """Every array to 1e-6 of its largest value; the held-out text and how it is used exactly.

    But for one site in ten: a rounding that falls the other way may change its best shrinkage.
    """
    from safetensors.numpy import load_file

    whole, merged = (parts / name for name in ("whole", "merged"))
    names = {path.name for path in whole.iterdir()}
    assert {path.name for path in merged.iterdir()} == names
    for name in sorted(name for name in names if name.endswith(".safetensors")):
        ours, theirs = load_file(merged / name), load_file(whole / name)
        assert ours.keys() == theirs.keys()
        for key, expected in theirs.items():
            assert ours[key].dtype == expected.dtype and ours[key].shape == expected.shape
            apart = np.abs(ours[key].astype(np.float64) - expected).max(initial=0)
            assert apart <= 1e-6 * np.abs(expected).max(initial=0), (name, key)
    assert (merged / stored.HELD_TEXT).read_bytes() == (whole / stored.HELD_TEXT).read_bytes()
    ours, theirs = (
        (folder / stored.INDEX).read_text("utf-8").splitlines() for folder in (merged, whole)
    )
    shrunk = sum('"shrink": ' in line for line in theirs)
    differ = [both for both in zip(ours, theirs, strict=True) if both[0] != both[1]]
    assert len(differ) <= shrunk / 10
    assert all('"shrink": ' in line for both in differ for line in both)
    ours, theirs = (imatrix.read(f / stored.IMATRIX).weights for f in (merged, whole))
    for tensor, weights in theirs.items():
        np.testing.assert_allclose(ours[tensor], weights, rtol=1e-5)


def test_merged_is_used_as_the_whole(parts: Path, text: Path) -> None:
    """`calibrate` takes it for its own work, gradients too: so does `optimize`, which calls it."""
    before = (parts / "merged" / gradients.FILE).stat().st_mtime_ns
    again = kanna.calibrate(
        parts / "model",
        parts / "merged",
        calibration=[text],
        tokens=WINDOWS * WINDOW,
        gradients=True,
    )
    assert again.reused
    assert (parts / "merged" / gradients.FILE).stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "names, error, words",
    [
        (["part-1", "part-2"], UsageError, "of 3 shards, 1 are not given: 3"),
        (["part-1", "part-2", "part-2"], UsageError, "are both shard 2"),
        (["part-1", "whole", "part-3"], PlanError, "holds the statistics of a whole text"),
        (["part-1", "nothing", "part-3"], PlanError, "holds no statistics"),
        (["part-1", "part-2", "longer"], UsageError, "longer differs from .* in tokens"),
        (["part-1", "part-2", "other"], UsageError, "other differs from .* in source"),
        (["part-1", "part-2", "torn"], FormatError, "cannot be read"),
        (["part-1", "part-2", "short"], FormatError, "layer-00001.safetensors cannot be read"),
        (["part-1", "part-2", "blunt"], FormatError, "gradients.safetensors cannot be read"),
        (["part-1", "plain", "part-3"], UsageError, "plain have no gradients, others have"),
    ],
)
def test_what_is_no_shard_of_the_text(
    parts: Path, tmp_path: Path, names: list[str], error: type[KannaError], words: str
) -> None:
    """Nothing is merged, and nothing is written."""
    index = json.loads((parts / "part-3" / stored.INDEX).read_text("utf-8"))
    changes = {"longer": {"tokens": 5}, "other": {"source": {"model.safetensors": "0"}}, "torn": {}}
    shutil.copytree(parts / "part-2", tmp_path / "plain")
    (tmp_path / "plain" / gradients.FILE).unlink()
    for name, file in (("short", "layer-00001.safetensors"), ("blunt", gradients.FILE)):
        shutil.copytree(parts / "part-3", tmp_path / name)
        os.truncate(tmp_path / name / file, (tmp_path / name / file).stat().st_size - 4)
    for name, change in changes.items():
        folder = tmp_path / name
        folder.mkdir()
        for file in (parts / "part-3").iterdir():
            (folder / file.name).write_bytes(file.read_bytes()[: 200 if name == "torn" else None])
        (folder / stored.FINGERPRINT).write_bytes(
            (parts / "part-3" / stored.FINGERPRINT).read_bytes()
        )
        (folder / stored.INDEX).write_text(json.dumps(index | change), "utf-8")
    shards = [parts / name if (parts / name).exists() else tmp_path / name for name in names]
    with pytest.raises(error, match=words):
        kanna.statistics("merge", shards, tmp_path / "out", source=parts / "model")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("file", ["layer-00001.safetensors", gradients.FILE])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_not_spread(
    parts: Path, tmp_path: Path, file: str, value: float
) -> None:
    """The shard that holds them is named, and nothing is written."""
    from safetensors import safe_open
    from safetensors.numpy import save_file

    shutil.copytree(parts / "part-2", tmp_path / "spoilt")
    path = tmp_path / "spoilt" / file
    with safe_open(str(path), framework="np") as stored_values:
        metadata = stored_values.metadata()
        values = {name: stored_values.get_tensor(name) for name in stored_values.keys()}  # noqa: SIM118 - no mapping
    name = next(n for n in sorted(values) if n.endswith(".mean") or file == gradients.FILE)
    values[name].flat[0] = value
    save_file(values, path, metadata)
    shards = [parts / "part-1", tmp_path / "spoilt", parts / "part-3"]
    with pytest.raises(FormatError, match=f"spoilt.*{name}.* not numbers"):
        kanna.statistics("merge", shards, tmp_path / "out", source=parts / "model")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_held_out_text_that_cannot_be_read(
    parts: Path, tmp_path: Path, content: bytes | None
) -> None:
    """It is known before the first file is written."""
    shutil.copytree(parts / "part-2", tmp_path / "spoilt")
    held = tmp_path / "spoilt" / stored.HELD_TEXT
    held.unlink()
    if content is not None:
        held.write_bytes(content)
    shards = [parts / "part-1", tmp_path / "spoilt", parts / "part-3"]
    with pytest.raises(FormatError, match=r"held\.txt cannot be read"):
        kanna.statistics("merge", shards, tmp_path / "out", source=parts / "model")
    assert not (tmp_path / "out").exists()


def test_a_shard_is_no_whole(parts: Path, tmp_path: Path) -> None:
    """Methods refuse it, and say how to get the whole; what is there is not replaced."""
    with pytest.raises(PlanError, match="holds shard 2 of 3"):
        kanna.convert(parts / "model", tmp_path / "m.gguf", statistics=parts / "part-2")
    shards = [parts / f"part-{i}" for i in (1, 2, 3)]
    lock = parts / ".whole.kanna-lock"
    lock.write_text("{}")  # of a merge that was killed at its very end
    with pytest.raises(OutputError, match="holds statistics already"):
        kanna.statistics("merge", shards, parts / "whole", source=parts / "model")
    assert not lock.exists()


@pytest.mark.parametrize("given", ["", "0/3", "4/3", "1", "1/", "-1/3", "1/0", "1/9999", "a/b"])
def test_a_shard_that_is_none(given: str) -> None:
    with pytest.raises(UsageError, match="--shard"):
        Shard.parse(given)


def test_more_shards_than_windows(parts: Path, text: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too few for 40 shards"):
        kanna.calibrate(
            parts / "model", tmp_path / "s", calibration=[text], tokens=5 * WINDOW, shard="1/40"
        )
    assert not (tmp_path / "s").exists()

"""A calibration in parts; in a cluster: tests/executors/test_ray.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.calibrating import WINDOW

import kanna
from kanna.calibration import CalibrateResult, gradients
from kanna.errors import UsageError

pytest.importorskip("torch")
pytest.importorskip("transformers")

from helpers import tiny_models  # noqa: E402 - needs torch

TOKENS = 13 * WINDOW


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spread") / "model"
    tiny_models.make("llama", folder)
    return folder


def calibrated(model: Path, text: Path, out: Path, **more: Any) -> CalibrateResult:
    options: dict[str, Any] = {
        "calibration": [text],
        "tokens": TOKENS,
        "shards": 3,
        "gradients": True,
    }
    return kanna.calibrate(model, out, **options | more)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.usefixtures("small")
def test_parts_that_are_read_here_are_merged_and_kept(
    model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = calibrated(model, text, tmp_path / "all")
    assert made.tokens == 11 * WINDOW and not made.reused
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["all"]
    (tmp_path / "all-shards").mkdir()  # as a run leaves it that is killed at its end
    assert calibrated(model, text, tmp_path / "all").reused
    assert not (tmp_path / "all-shards").exists()
    for number in (1, 2, 3):
        kanna.calibrate(
            model,
            tmp_path / str(number),
            calibration=[text],
            tokens=TOKENS,
            shard=f"{number}/3",
            gradients=True,
        )
    parts = [tmp_path / str(number) for number in (1, 2, 3)]
    kanna.statistics("merge", parts, tmp_path / "merged", source=model)
    assert contents(tmp_path / "all") == contents(tmp_path / "merged")
    # Parts that an interrupted run left are taken as they are.
    kept = tmp_path / "again-shards"
    kept.mkdir()
    (tmp_path / "2").rename(kept / "2-of-3")
    before = (kept / "2-of-3" / "index.json").stat().st_mtime_ns
    seen: list[int] = []
    save = gradients.MeanGradients.save

    def noted(rows: gradients.MeanGradients, folder: Path, key: str) -> None:
        seen.append((kept / "2-of-3" / "index.json").stat().st_mtime_ns)
        assert not (folder / "index.json").exists(), "which says that all of it is there"
        save(rows, folder, key)

    monkeypatch.setattr(gradients.MeanGradients, "save", noted)
    calibrated(model, text, tmp_path / "again")
    assert seen == [before] and contents(tmp_path / "again") == contents(tmp_path / "all")


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"shards": None, "on": "ray"}, "--on ray runs parts"),
        ({"shard": "1/2"}, "given together"),
        ({"shards": 0}, "--shards 0"),
        ({"calibration": "self"}, "samples a text first"),
        ({"on": "github"}, "runs whole recipes"),
        ({"on": "rai"}, "there is no executor 'rai' (did you mean ray?)"),
        ({"shards": 99}, "too few for 99 shards"),
    ],
)
@pytest.mark.usefixtures("small")
def test_parts_that_make_no_sense(
    model: Path, text: Path, tmp_path: Path, given: dict[str, Any], problem: str
) -> None:
    with pytest.raises(UsageError) as caught:
        calibrated(model, text, tmp_path / "out", **given)
    assert problem in str(caught.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]

"""MLX folders run in mlx-lm, judged by their values, and proved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import tiny_models

from kanna import convert, runtimes
from kanna.errors import FormatError
from kanna.evaluation import evaluate
from kanna.evaluation.reference import open_for_scoring
from kanna.verification import verify

mx = pytest.importorskip("mlx.core")
mlx_lm = pytest.importorskip("mlx_lm")
pytest.importorskip("torch")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp("mlx")
    (place / "hf").mkdir()
    tiny_models.make("qwen2", place / "hf")
    convert(place / "hf", place / "mlx", format="mlx", encoding="affine8g32")
    return place / "hf", place / "mlx"


def mapped(engine: Any) -> str:
    """What the process of an engine maps into its memory."""
    maps = Path(f"/proc/{engine._child._process.pid}/maps")
    text = maps.read_text() if maps.parent.is_dir() else "libmlx"
    assert "libmlx" in text
    return text


def test_its_runtime_is_mlx(made: tuple[Path, Path]) -> None:
    hf, folder = made
    assert runtimes.of(folder).name == "mlx" and runtimes.of(hf).name == "torch"
    assert runtimes.get("mlx").available().ok
    convert(hf, hf.parent / "floats", format="mlx", encoding="bf16", overwrite=True)
    assert runtimes.of(hf.parent / "floats").name == "mlx"


def test_logits_are_those_of_the_values_in_the_file_and_of_mlx_lm(made: tuple[Path, Path]) -> None:
    _, folder = made
    ids = [1, 30, 77, 200, 5, 9]
    with runtimes.get("mlx").open(folder, context=64) as engine:
        ours, late = engine.logits(ids), engine.logits(ids, first=4)
        text = "".join(engine.generate(ids, max_tokens=5, ignore_eog=True))
        again = "".join(engine.generate(ids, max_tokens=5, ignore_eog=True))
        assert engine.last.reused_tokens == len(ids) - 1 and engine.last.tokens == 5
        assert "libtorch" not in mapped(engine), "it has no use for it"
    judge, note = open_for_scoring(folder, context=64)
    with judge:
        values = judge.logits(ids)
    model, _ = mlx_lm.load(str(folder))
    theirs = np.array(model(mx.array([ids]))[0].astype(mx.float32))
    assert "decoded" in note and text == again
    np.testing.assert_allclose(ours, values, atol=2e-3 * np.abs(values).max())
    np.testing.assert_allclose(ours, theirs, atol=2e-2 * np.abs(theirs).max())
    np.testing.assert_allclose(late, ours[4:], atol=1e-4 * np.abs(ours).max())


def test_it_is_evaluated_and_the_runtime_is_named(made: tuple[Path, Path], tmp_path: Path) -> None:
    hf, folder = made
    text = tmp_path / "text.txt"
    text.write_text(tiny_models.TEXT * 12)
    found = evaluate(folder, reference=hf, text=text, windows=2, context=64)
    assert 0 < found.kl_mean < 0.01
    assert any("mlx is slow" in n for n in found.notes)


def test_the_gate_proves_it_and_fails_another(made: tuple[Path, Path], tmp_path: Path) -> None:
    hf, folder = made
    proved = verify(hf, folder)
    assert proved.status == "proved", [c for c in proved.checks if not c.ok]
    assert any(c.name == "logits in mlx" for c in proved.checks)
    (tmp_path / "other").mkdir()
    tiny_models.make("qwen2", tmp_path / "other", seed=5)
    assert verify(tmp_path / "other", folder).status == "failed"


def test_a_folder_that_mlx_lm_cannot_load_is_refused(
    made: tuple[Path, Path], tmp_path: Path
) -> None:
    _, folder = made
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text()) | {"model_type": "none-such"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(FormatError, match="mlx-lm cannot load"):
        runtimes.get("mlx").open(tmp_path)

"""Vision towers: stock llama.cpp sees with an mmproj what transformers sees with the checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import tiny_vision
from safetensors.numpy import load_file, save_file

import kanna
from kanna._util.progress import Silent
from kanna.cli.main import cli
from kanna.errors import KannaError, SourceError, UnsupportedError, UsageError
from kanna.formats import gguf

# Largest difference of an embedding, in standard deviations of all: three times what was measured.
BOUNDS = {"f32": 0.05, "f16": 0.05, "q8_0": 1.0}
TEXT, TEXT_BOUND = "So", 0.01
"""What follows the picture, and the largest difference of a logit."""

CHECKS = ("tensors present", "tensor values", "settings of pictures", "a picture in llama.cpp")


class Checkpoint:
    """A tiny checkpoint, its text model as a GGUF, and what transformers sees in a picture."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.folder, self.kind = folder / "model", kind
        self.folder.mkdir()
        model = tiny_vision.make(kind, self.folder)
        self.picture = tiny_vision.picture(kind)
        self.expected = tiny_vision.seen(kind, model, self.picture)
        self.after = (
            tiny_vision.after(kind, model, self.folder, self.picture, TEXT)
            if kind in tiny_vision.AFTER
            else None
        )
        self.text = folder / "text.gguf"
        kanna.convert(self.folder, self.text, encoding="f32", progress=Silent())


ALIKE = ("qwen35", "qwen35moe", "qwen3vlmoe")
"""Their towers are that of qwen3vl, which runs by default, with stacked layers or without."""


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(kind, marks=pytest.mark.slow) if kind in ALIKE else kind
        for kind in tiny_vision.KINDS
    ],
)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return Checkpoint(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def gemma3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gemma3") / "model"
    folder.mkdir()
    tiny_vision.make("gemma3", folder)
    return folder


@pytest.fixture
def copy(gemma3: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(gemma3, tmp_path / "copy"))


def convert(folder: Path, out: Path | None = None, **options: Any) -> Any:
    return kanna.convert(
        folder, out, mmproj=True, dry_run=out is None, progress=Silent(), **options
    )


def looks(checkpoint: Checkpoint, folder: Path, encoding: str) -> Any:
    """Logits after a picture, whose rows are held to those of transformers."""
    from kanna.runtimes import sight

    out = folder / f"{encoding}.gguf"
    convert(checkpoint.folder, out, encoding=encoding)
    seen = sight.see(checkpoint.text, out, checkpoint.picture, sight.MARKER + TEXT)
    assert seen.embeddings.shape == checkpoint.expected.shape
    off = np.abs(seen.embeddings - checkpoint.expected).max() / checkpoint.expected.std()
    assert off < BOUNDS[encoding]
    assert np.isfinite(seen.logits).all()
    return seen.logits


def test_llama_cpp_sees_what_transformers_sees(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """The rows of a picture, and the logits after it.

    Those need positions of three numbers, who sees what, states of the tower in layers of text.
    """
    from kanna.runtimes import sight

    logits = looks(checkpoint, tmp_path, "f16")
    if checkpoint.after is not None:
        off = np.abs(logits - checkpoint.after).max() / checkpoint.after.std()
        assert off < TEXT_BOUND
    else:
        prompt = sight.MARKER + TEXT
        blank = sight.see(checkpoint.text, tmp_path / "f16.gguf", checkpoint.picture * 0, prompt)
        assert not np.allclose(blank.logits, logits, atol=1e-3)  # the text model looks at it
    proof = kanna.verify(checkpoint.folder, tmp_path / "f16.gguf", progress=Silent())
    assert [(c.name, c.ok) for c in proof.checks] == [(name, True) for name in CHECKS]


@pytest.mark.parametrize(
    "checkpoint",
    [
        pytest.param(kind, marks=() if kind == tiny_vision.KINDS[0] else pytest.mark.slow)
        for kind in tiny_vision.KINDS
    ],
    indirect=True,
)
def test_other_encodings_are_as_close_as_they_can_be(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    for encoding in ("f32", "q8_0"):
        looks(checkpoint, tmp_path, encoding)


def test_a_dry_run_gives_the_size_of_the_file(gemma3: Path, tmp_path: Path) -> None:
    out = tmp_path / "mmproj.gguf"
    written = convert(gemma3, out)
    assert written.file_bytes == out.stat().st_size
    assert convert(gemma3).preset == "mmproj in f16"
    file = gguf.read(out)
    assert file.value("general.type") == "mmproj"
    assert file.value("clip.projector_type") == "gemma3"
    assert {t.dtype for t in file.tensors.values()} == {"f16", "f32"}


def test_inspect_says_what_a_tower_is(gemma3: Path, tmp_path: Path) -> None:
    out = tmp_path / "mmproj.gguf"
    convert(gemma3, out)
    found = kanna.inspect(out)
    assert found.vision == {
        "projector": "gemma3",
        "picture": tiny_vision.SIDE,
        "patch": 14,
        "layers": 3,
        "hidden": 64,
        "text_hidden": tiny_vision.TEXT["hidden_size"],
    }
    shown = CliRunner().invoke(cli, ["inspect", str(out)], env={"COLUMNS": "200"})
    assert "gemma3, pictures of 56 × 56 in patches of 14, 3 layers of 64 values" in shown.output
    assert "--mmproj" in shown.output and "requantized" not in shown.output
    assert "Tokenizer" not in shown.output
    assert kanna.inspect(gemma3).vision is None


def test_verify_sees_another_tower_and_other_settings(gemma3: Path, copy: Path) -> None:
    out = copy / "mmproj.gguf"
    convert(gemma3, out)
    tiny_vision.write_settings(copy, image_mean=[0.5, 0.5, 0.5])
    result = kanna.verify(copy, out, progress=Silent())
    assert [c.name for c in result.checks if not c.ok] == ["settings of pictures"]
    tensors = load_file(copy / "model.safetensors")
    tensors["multi_modal_projector.mm_input_projection_weight"] *= -1
    save_file(tensors, copy / "model.safetensors")
    result = kanna.verify(copy, out, progress=Silent())
    assert "tensor values" in [c.name for c in result.checks if not c.ok]


def test_verify_and_fit_take_a_tower_beside_the_text(gemma3: Path, tmp_path: Path) -> None:
    text, tower = tmp_path / "text.gguf", tmp_path / "mmproj.gguf"
    kanna.convert(gemma3, text, encoding="f32", progress=Silent())
    convert(gemma3, tower)
    result = kanna.verify(gemma3, text, mmproj=tower, progress=Silent())
    assert {c.name: c.ok for c in result.checks if c.name.startswith("tower: ")} == {
        f"tower: {name}": True for name in CHECKS
    }
    wrong = kanna.verify(gemma3, text, mmproj=text, progress=Silent())
    assert [c.name for c in wrong.checks if c.ok is False] == ["tower: belongs to the model"]
    plain, seeing = (
        kanna.fit(gemma3, memory="1GB", mmproj=counted, progress=Silent())
        for counted in (False, True)
    )
    more = {b.memory_bytes - a.memory_bytes for a, b in zip(plain.rows, seeing.rows, strict=True)}
    [taken] = more
    weights = sum(t.nbytes for t in gguf.read(tower).tensors.values())
    assert weights < taken < weights + (1 << 20)
    assert any("vision tower takes" in note for note in seeing.notes)


def edit(folder: Path, name: str, **changes: Any) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_mean": [0.5]}, "values of image_mean"),
        ({"image_std": [0, 0, 0]}, "image_std"),
        ({"image_mean": "white"}, "image_mean"),
        ({"image_mean": [1e30, 1, 1]}, "image_mean"),
    ],
)
def test_absurd_settings_of_pictures_are_refused(
    copy: Path, changes: dict[str, Any], words: str
) -> None:
    edit(copy, "preprocessor_config.json", **changes)
    with pytest.raises(KannaError, match=words):
        convert(copy)


def test_a_checkpoint_without_settings_of_pictures_is_refused(copy: Path) -> None:
    (copy / "preprocessor_config.json").unlink()
    with pytest.raises(SourceError, match="image_mean"):
        convert(copy)


def test_settings_are_read_from_the_processors_file(copy: Path) -> None:
    settings = json.loads((copy / "preprocessor_config.json").read_text())
    (copy / "preprocessor_config.json").unlink()
    (copy / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    assert convert(copy).paths == []


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("mm_tokens_per_image", 5, "mm_tokens_per_image"),
        ("mm_tokens_per_image", 10**12, "mm_tokens_per_image"),
        ("vision_config", {"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ("vision_config", {"num_hidden_layers": 4}, "missing"),
        ("vision_config", {"hidden_size": 0}, "hidden_size"),
        ("vision_config", {"hidden_size": 63}, "heads"),
        ("vision_config", {"patch_size": 7}, "shape"),
        ("vision_config", {"patch_size": 1000}, "patch"),
        ("vision_config", {"hidden_act": "relu"}, "hidden_act"),
    ],
)
def test_an_absurd_config_is_refused(copy: Path, key: str, value: Any, words: str) -> None:
    if key == "vision_config":
        value = json.loads((copy / "config.json").read_text())[key] | value
    edit(copy, "config.json", **{key: value})
    with pytest.raises(KannaError, match=words):
        convert(copy)


def test_a_missing_a_misshapen_and_a_foreign_tensor_are_named(copy: Path) -> None:
    path = copy / "model.safetensors"
    tensors = load_file(path)
    norm = "vision_tower.encoder.layers.1.layer_norm1.weight"
    for changed, words in (
        ({k: v for k, v in tensors.items() if k != norm}, "layer_norm1.weight of the vision tower"),
        (tensors | {norm: np.ones(3, np.float32)}, "shape"),
        (tensors | {"vision_tower.adapter.weight": np.ones(3, np.float32)}, "no place"),
    ):
        save_file(changed, path)
        with pytest.raises(UnsupportedError, match=words):
            convert(copy)


def test_a_model_without_a_tower_and_one_with_another_are_refused(copy: Path) -> None:
    edit(copy, "config.json", architectures=["Gemma3nForConditionalGeneration"])
    with pytest.raises(UnsupportedError, match="Gemma3nForConditionalGeneration"):
        convert(copy)
    for name, reason in (("Gemma4Unified", "without a window"), ("Llama4", "worse than")):
        edit(copy, "config.json", architectures=[f"{name}ForConditionalGeneration"])
        with pytest.raises(UnsupportedError, match=reason):
            convert(copy)
    edit(copy, "config.json", architectures=["LlamaForCausalLM"], vision_config=None)
    with pytest.raises(UnsupportedError, match="no vision tower"):
        convert(copy)


def test_what_is_of_no_use_with_a_tower_is_refused(gemma3: Path) -> None:
    for options in ({"preset": "Q4_K_M"}, {"verify": True}, {"format": "mlx"}):
        with pytest.raises(UsageError, match="--mmproj"):
            convert(gemma3, **options)
    with pytest.raises(UsageError, match="vision tower"):
        convert(gemma3, encoding="q4_k")

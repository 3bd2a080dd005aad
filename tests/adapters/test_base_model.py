"""Which base an adapter is of: told by values of it where they lie beside, else by names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import tiny_adapters
from safetensors.numpy import load_file, save_file

import kanna
from kanna.adapters import base_model
from kanna.errors import FormatError, SourceError


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base in `llama`, and an adapter that knows it in `own`, without a word of it in names."""
    home = tmp_path_factory.mktemp("bases")
    base = tiny_adapters.base("llama", home / "llama")
    tiny_adapters.make(base, home / "own", target_modules=["q_proj", "down_proj"])
    base_model.write(home / "own", kanna.open_source(base))
    return home


def _moved(home: Path, name: str, noise: float) -> Path:
    """The base with other values of the same shapes: `noise` times as large as the values were."""
    shutil.copytree(home / "llama", home / name)
    path = next((home / name).glob("*.safetensors"))
    values, random = load_file(path), np.random.default_rng(0)
    for key, one in values.items():
        moved = noise * random.standard_normal(one.shape) * one.std()
        values[key] = (one + moved).astype(one.dtype)
    save_file(values, path, {"format": "pt"})
    return home / name


def _remarks(notes: list[str]) -> list[str]:
    return [n for n in notes if "base model" in n or "further trained" in n or "trained on" in n]


def test_the_same_weights_are_known_in_every_format_and_under_any_name(home: Path) -> None:
    shutil.copytree(home / "llama", home / "renamed")
    kanna.convert(home / "llama", home / "f16.gguf", preset="F16")
    kanna.convert(home / "llama", home / "few.gguf", preset="Q2_K")
    for same in ("llama", "renamed", "f16.gguf"):
        assert not _remarks(list(kanna.merge(home / same, home / "own", dry_run=True).notes)), same
    notes = kanna.convert(home / "few.gguf", adapter=home / "own", dry_run=True).notes
    assert any("quantized or further trained" in n for n in notes)


def test_other_weights_of_the_same_shapes_are_refused(home: Path, tmp_path: Path) -> None:
    other, further = _moved(home, "other", 30.0), _moved(home, "further", 0.1)
    with pytest.raises(SourceError, match="the base is another"):
        kanna.merge(other, home / "own", tmp_path / "out")
    with pytest.raises(SourceError, match="the base is another"):
        kanna.convert(other, tmp_path / "x.gguf", adapter=home / "own")
    assert not list(tmp_path.iterdir())
    notes = kanna.merge(further, home / "own", dry_run=True).notes
    assert any("further trained" in n for n in notes)


def test_of_a_foreign_adapter_names_tell(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "own", tmp_path / "foreign")
    (tmp_path / "foreign" / base_model.FILE).unlink()
    path = tmp_path / "foreign" / "adapter_config.json"
    config = json.loads(path.read_text()) | {"base_model_name_or_path": None}
    path.write_text(json.dumps(config))
    notes = kanna.merge(home / "llama", tmp_path / "foreign", dry_run=True).notes
    assert any("names no base model" in n for n in notes)
    named = {"base_model_name_or_path": "llama", "revision": "b" * 40}
    path.write_text(json.dumps(config | named))
    source = kanna.open_source(home / "llama")
    source.revision = "a" * 40
    notes = kanna.merge(source, tmp_path / "foreign", dry_run=True).notes
    assert any("trained on the revision bbb" in n for n in notes)
    path.write_text(json.dumps(config | {"auto_mapping": {"base_model_class": "Phi3ForCausalLM"}}))
    with pytest.raises(SourceError, match="trained on a Phi3ForCausalLM"):
        kanna.merge(home / "llama", tmp_path / "foreign", dry_run=True)


@pytest.mark.parametrize("values", ["%", "AAAA", "AAAAAA=="])
def test_damaged_values_are_refused(home: Path, tmp_path: Path, values: str) -> None:
    shutil.copytree(home / "own", tmp_path / "own")
    told = {"embedding": {"rows": [0, 1, 2], "values": values}}
    (tmp_path / "own" / base_model.FILE).write_text(json.dumps(told))
    with pytest.raises(FormatError, match=r"base\.json holds no values"):
        kanna.merge(home / "llama", tmp_path / "own", dry_run=True)

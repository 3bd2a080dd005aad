"""Models that no family is for: refused by name, by every verb, with what to use instead."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.tiny_models import write_tokenizer

from kanna import families, inspect
from kanna.cli.main import cli
from kanna.errors import UnsupportedError
from kanna.families._others import MLX_ALONE, NOWHERE, OTHERS, Other

IDS = [other.title for other in OTHERS]


@pytest.mark.parametrize("other", OTHERS, ids=IDS)
def test_a_known_model_is_refused_by_its_name(other: Other) -> None:
    taken = {cls for name in families.names() for cls in families.get(name).architectures}
    for config in [
        *({"architectures": [cls]} for cls in other.classes if cls not in taken),
        {"model_type": other.model_types[0]},
    ]:
        try:
            families.family_of(config)
        except UnsupportedError as error:
            assert error.found.startswith(f"{other.title} ("), error.found
            assert other.reason in error.found and error.todo == other.instead
        else:
            assert taken & set(other.classes)  # a family took it over


def test_no_name_stands_twice() -> None:
    for names in (
        [c for o in OTHERS for c in o.classes],
        [t for o in OTHERS for t in o.model_types],
    ):
        assert len(names) == len(set(names))


def test_what_no_runtime_has_is_in_none_of_those_installed() -> None:
    """The reason is a fact about other projects, which changes with their versions."""
    llama_cpp, mlx_lm = find_spec("llama_cpp"), find_spec("mlx_lm")
    if not (llama_cpp and llama_cpp.origin and mlx_lm and mlx_lm.origin):
        pytest.skip("llama.cpp and mlx-lm are not installed")
    libraries = (Path(llama_cpp.origin).parent / "lib").glob("*llama.*")
    words = b"\0".join(path.read_bytes() for path in libraries)
    in_mlx = {path.stem for path in (Path(mlx_lm.origin).parent / "models").glob("*.py")}
    for other in OTHERS:
        if other.llama_arch:
            assert other.llama_arch.encode() + b"\0" in words, other.title
        elif other.reason in (NOWHERE, MLX_ALONE):
            assert not any(b"\0" + t.encode() + b"\0" in words for t in other.model_types)
            assert (other.reason == MLX_ALONE) == bool(in_mlx & set(other.model_types)), other.title


@pytest.fixture
def lfm3(tmp_path: Path) -> Path:
    """A folder that says it is an LFM3."""
    safetensors = pytest.importorskip("safetensors.numpy")
    folder = tmp_path / "lfm3"
    folder.mkdir()
    config = {"architectures": ["Lfm3ForCausalLM"], "model_type": "lfm3", "vocab_size": 512}
    (folder / "config.json").write_text(json.dumps(config))
    weight = np.zeros((512, 64), np.float32)
    safetensors.save_file({"model.embed_tokens.weight": weight}, folder / "model.safetensors")
    write_tokenizer("qwen2", folder, 512)
    return folder


VERBS = [
    "fit SRC",
    "convert SRC -o OUT",
    "convert SRC -o OUT --dry-run",
    "convert SRC -o OUT --preset onnx:int4",
    "convert SRC -o OUT --format mlx",
    "convert SRC -o OUT --format safetensors",
    "calibrate SRC -o OUT",
    "optimize SRC -o OUT --bpw 4",
    "compare SRC -o OUT",
    "adapt SRC -o OUT --data DATA",
    "serve SRC",
    "package SRC -o OUT",
]


@pytest.mark.parametrize("line", VERBS)
def test_every_verb_says_so_before_any_work(line: str, lfm3: Path, tmp_path: Path) -> None:
    if line.startswith("adapt"):
        pytest.importorskip("trl")
    data, out = tmp_path / "data.jsonl", tmp_path / "out"
    data.write_text("".join(json.dumps({"text": f"line {i} of a text"}) + "\n" for i in range(8)))
    places = {"SRC": str(lfm3), "OUT": str(out), "DATA": str(data)}
    result = CliRunner().invoke(cli, [places.get(word, word) for word in line.split()])
    assert result.exit_code == 1, result.output
    assert "LFM3 (Lfm3ForCausalLM) is not supported: no stock runtime has it" in result.output
    assert "LFM2.5" in result.output
    assert not out.exists()


def test_inspect_shows_it_with_the_reason(lfm3: Path) -> None:
    result = inspect(lfm3)
    assert not result.ok and not result.also
    assert "no stock runtime" in result.problems[0]["found"]


def test_inspect_names_what_else_is_of_a_family(tmp_path: Path) -> None:
    from helpers.tiny_models import make

    pytest.importorskip("torch")
    make("llama", tmp_path / "llama")
    assert "TinyLlama" in inspect(tmp_path / "llama").also
    shown = CliRunner().invoke(cli, ["inspect", str(tmp_path / "llama")])
    assert "llama (also Llama 3.2, TinyLlama, " in shown.output

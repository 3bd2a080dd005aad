"""What a Hugging Face folder says of itself reaches the folders made of it as it is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import tiny_models

import kanna

SPELLED_ANEW = {"dtype", "torch_dtype", "transformers_version", "_name_or_path"}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 7.3,
    "low_freq_factor": 1.5,
    "high_freq_factor": 3.5,
    "original_max_position_embeddings": 100,
}
GENERATION = {
    "eos_token_id": [2, 7],
    "do_sample": True,
    "temperature": 0.61,
    "top_k": 17,
    "top_p": 0.83,
    "repetition_penalty": 1.07,
    "max_new_tokens": 99,
}

# Recipe, changes of config.json, generation_config.json (None: there is none).
SOURCES: dict[str, tuple[str, dict[str, Any], dict[str, Any] | None]] = {
    "mistral": ("mistral", {}, GENERATION),
    "a window": ("mistral-window", {}, None),
    "unusual scaling": ("llama", {"rope_parameters": LLAMA3}, None),
    "older spelling": (
        "llama",
        {"rope_parameters": None, "rope_theta": 20000.0, "rope_scaling": None},
        GENERATION,
    ),
    "keys of others": ("qwen3", {"use_cache": False, "initializer_range": 0.017}, None),
    "several ends": ("qwen2", {"eos_token_id": [2, 9, 4]}, None),
    "two kinds of layers": ("gemma3-pattern", {}, GENERATION),
    "factors of a list": ("phi4-mini", {}, None),
}


def made(name: str, folder: Path) -> Path:
    """One of SOURCES, in `folder`/source."""
    recipe, changes, generation = SOURCES[name]
    source = folder / "source"
    source.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for key, value in (("intermediate_size", 640), ("vocab_size", 544)):
            patch.setitem(tiny_models.SMALL, key, value)
        tiny_models.make(recipe, source)
    config = json.loads((source / "config.json").read_text()) | changes
    (source / "config.json").write_text(
        json.dumps({k: v for k, v in config.items() if v is not None or k.endswith("_id")})
    )
    (source / "generation_config.json").unlink(missing_ok=True)
    if generation is not None:
        (source / "generation_config.json").write_text(json.dumps(generation))
    return source


def same_files(source: Path, out: Path) -> None:
    """Tokenizer and generation config byte by byte; nothing where the source has nothing."""
    for name in ("tokenizer.json", "generation_config.json", "special_tokens_map.json"):
        assert (source / name).exists() == (out / name).exists(), name
        if (source / name).exists():
            assert (out / name).read_bytes() == (source / name).read_bytes(), name


@pytest.mark.parametrize("name", SOURCES)
def test_config_is_that_of_the_source(name: str, tmp_path: Path) -> None:
    source = made(name, tmp_path)
    wanted = json.loads((source / "config.json").read_text())
    for format in ("mlx", "safetensors"):
        out = tmp_path / format
        kanna.convert(source, out, format=format, threads=1)
        written = json.loads((out / "config.json").read_text())
        differing = {
            k: (v, written.get(k))
            for k, v in wanted.items()
            if k not in SPELLED_ANEW and written.get(k) != v
        }
        assert not differing
        same_files(source, out)


@pytest.mark.parametrize("name", ["mistral", "unusual scaling", "several ends"])
def test_a_graph_is_described_as_the_source_is(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_genai")
    source, out = made(name, tmp_path), tmp_path / "out"
    config = json.loads((source / "config.json").read_text())
    kanna.convert(source, out, preset="onnx:int4", threads=1)
    genai = json.loads((out / "genai_config.json").read_text())
    model = genai["model"]
    assert model["type"] == config["model_type"]
    assert model["context_length"] == config["max_position_embeddings"]
    assert model["vocab_size"] == config["vocab_size"]
    assert model["decoder"]["num_hidden_layers"] == config["num_hidden_layers"]
    generation = SOURCES[name][2] or {}
    ends = [config["eos_token_id"], generation.get("eos_token_id")]
    ids = {i for e in ends if e is not None for i in (e if isinstance(e, list) else [e])}
    found = model["eos_token_id"]
    assert ids <= set(found if isinstance(found, list) else [found])
    for key in ("temperature", "top_k", "top_p", "repetition_penalty"):
        if key in generation:
            assert genai["search"][key] == generation[key], key
    same_files(source, out)

"""Every verb asks for the extra that it needs before it works: by name, and nothing is written."""

from __future__ import annotations

import importlib.util
import json
import struct
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from helpers import tiny_models
from helpers.making import gguf_bytes, info, text
from helpers.packing import mlx_folder, run

from kanna._util import extras

READ = {
    "generate": "generate {} Once --max-tokens 1",
    "chat": "chat {}",
    "bench": "bench {} --repeat 1",
    "evaluate": "evaluate {} --reference SOURCE --text TEXT --windows 1",
    "evaluate, tasks": "evaluate {} --reference SOURCE --text TEXT --windows 1 --tasks json",
    "selftest": "selftest {} --write",
}
"""Verbs that run an artefact."""
WRITE = {
    "convert": "convert SOURCE -o OUT --format {}",
    "compare": "compare SOURCE -o OUT --formats gguf,{} --text TEXT --windows 1",
    "optimize": "optimize SOURCE -o OUT --format {} --bpw 6 --text TEXT --windows 1",
}
"""Verbs that write a format."""
ONNX = ("onnxruntime", "onnxruntime_genai", "onnx_ir", "onnx")
LLAMA = ("xllamacpp", "llama_cpp", "llama_cpp_py_sync")
CASES: list[tuple[str, str, Sequence[str]]] = [
    *((words.format("OPENVINO"), "openvino", ("openvino",)) for words in READ.values()),
    *((words.format("ONNX"), "onnx", ONNX) for words in READ.values()),
    *((words.format("openvino"), "openvino", ("openvino_tokenizers",)) for words in WRITE.values()),
    (WRITE["optimize"].format("onnx"), "onnx", ONNX),
    ("package ONNX -o OUT --to docker --selftest", "onnx", ONNX),
    ("calibrate SOURCE -o OUT --calibration TEXT", "torch", ("torch",)),
    ("optimize SOURCE -o OUT --bpw 6 --text TEXT", "torch", ("transformers",)),
    ("optimize SOURCE -o OUT --format mlx --bpw 6 --text TEXT", "torch", ("torch",)),
    ("adapt SOURCE -o OUT --data DATA", "adapt", ("peft",)),
    ("serve GGUF --port 0 --state OUT", "serve", LLAMA),
    ("serve GGUF --port 0 --state OUT", "serve", ("uvicorn",)),
    ("serve ONNX --port 0 --state OUT", "onnx", ONNX),
    ("serve MLX --port 0 --state OUT", "mlx", ("mlx_lm",)),
    (
        "serve MLX --port 0 --state OUT --traces http://127.0.0.1:1",
        "otel",
        ("opentelemetry",),
    ),
    ("studio --port 0", "serve", ("fastapi",)),
    (
        "fleet serve --state OUT --port 0 --database postgresql://127.0.0.1/x",
        "postgres",
        ("psycopg",),
    ),
    ("run RECIPE -o OUT --track sqlite:///OUT", "mlflow", ("mlflow",)),
    ("run RECIPE -o OUT --track trackio", "trackio", ("trackio",)),
]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files and folders by the words that stand for them."""
    base = tmp_path_factory.mktemp("extras")
    mlx_folder(base / "mlx")
    architecture = text("general.architecture") + struct.pack("<I", 8) + text("llama")
    tensor = info("token_embd.weight", [8, 4])
    header = gguf_bytes(kvs=(architecture,), infos=(tensor,), data=bytes(128))
    (base / "file.gguf").write_bytes(header)
    empty = b'<net name="empty" version="11"></net>'
    for name, graph, data in (
        ("openvino", "openvino_model.xml", empty),
        ("onnx", "model.onnx", b""),
    ):
        (base / name).mkdir()
        (base / name / graph).write_bytes(data)
        (base / name / "config.json").write_text("{}")
    model = {"model": {"type": "llama", "decoder": {"filename": "model.onnx"}}}
    (base / "onnx" / "genai_config.json").write_text(json.dumps(model))
    (base / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 200)
    words = ["fox", "dog", "river", "castle", "engine", "violin", "harbour", "desert"]
    pairs = [{"prompt": f"{a} of {b}", "completion": b} for a in words for b in words if a != b]
    (base / "data.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    recipe = "name: one\nsteps:\n  what:\n    verb: inspect\n    with: {source: ./source}\n"
    (base / "recipe.yaml").write_text(recipe)
    (base / "source").mkdir()
    named = {"GGUF": "file.gguf", "TEXT": "text.txt", "DATA": "data.jsonl"}
    named |= {"RECIPE": "recipe.yaml", "OPENVINO": "openvino", "ONNX": "onnx", "MLX": "mlx"}
    return {word: str(base / name) for word, name in named.items()}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is converted."""
    folder = tmp_path_factory.mktemp("source") / "tiny"
    tiny_models.make("smollm", folder)
    return folder


def _hide(names: Sequence[str], patch: pytest.MonkeyPatch) -> None:
    """Let these packages be absent for whoever looks."""
    find = importlib.util.find_spec

    def search(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name.partition(".")[0] in names else find(name, package)

    patch.setattr(importlib.util, "find_spec", search)


@pytest.mark.parametrize(("words", "extra", "hidden"), CASES)
def test_the_extra_is_asked_for_first(
    words: str,
    extra: str,
    hidden: Sequence[str],
    places: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    if "SOURCE" in words:
        places = places | {"SOURCE": str(request.getfixturevalue("source"))}
    cache = tmp_path / "cache"
    monkeypatch.setenv("KANNA_CACHE", str(cache))
    monkeypatch.setenv("PATH", "")  # no llama-server
    _hide(hidden, monkeypatch)
    out = tmp_path / "out"
    line = [places.get(word, word).replace("OUT", str(out)) for word in words.split()]
    done = run(*line, "--quiet")
    assert done.exit_code == 3, done.output
    assert extras.command(extra) in done.output.replace("\n", " "), done.output
    assert not out.exists() and not [*tmp_path.glob("out*")]
    assert not (cache / "references").exists(), "no reference is made for what cannot be run"

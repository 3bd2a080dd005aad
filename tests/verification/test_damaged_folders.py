"""Damaged ONNX, MLX and OpenVINO folders: the gate says which file is wrong, and how."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import engine_artefacts
from helpers.packing import run
from helpers.tiny_models import write_tokenizer

from kanna import verification
from kanna.checks import Check
from kanna.formats.openvino import graphs

WEIGHTS = {"onnx": "model.onnx.data", "mlx": "model.safetensors", "openvino": "openvino_model.bin"}
NEEDED = {
    "onnx": ("genai_config.json", "model.onnx", "model.onnx.data", "tokenizer.json"),
    "mlx": ("config.json", "model.safetensors", "tokenizer.json"),
    "openvino": (
        "config.json",
        "tokenizer.json",
        *(graphs.MODEL, *graphs.TOKENIZERS),
        *(graph.replace(".xml", ".bin") for graph in (graphs.MODEL, *graphs.TOKENIZERS)),
    ),
}

_OTHER_TOKENIZER = {"openvino": "otherwise than tokenizer.json"}
"""What is said of a tokenizer.json of another model, where its graphs are looked at first."""


def _cut(name: str, kept: Callable[[int], int]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: kept(len(data))])

    return change


def _absent(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _of_another_model(folder: Path) -> None:
    write_tokenizer("llama-bpe", folder.parent, 512)
    shutil.copy(folder.parent / "tokenizer.json", folder)


def _letters_exchanged(graph: str) -> Callable[[Path], None]:
    """Change the texts of the vocabulary that a graph of OpenVINO has, and nothing else."""

    def change(folder: Path) -> None:
        texts = max(
            (c for c in graphs.constants(folder / graph).values() if c.kind == "u8"),
            key=lambda constant: constant.shape,
        )
        weights = (folder / graph).with_suffix(".bin")
        data, stop = weights.read_bytes(), texts.offset + texts.shape[0]
        exchanged = data[texts.offset : stop].translate(bytes.maketrans(b"eo", b"oe"))
        weights.write_bytes(data[: texts.offset] + exchanged + data[stop:])

    return change


def _damages(engine: str) -> list[tuple[str, Callable[[Path], None]]]:
    """What the gate must say, and the damage."""
    weights = WEIGHTS[engine]
    damages = [
        (weights, _cut(weights, lambda size: size // 2)),
        (weights, _cut(weights, lambda size: size - 1)),
        (weights, _cut(weights, lambda size: 0)),
        *((name, _absent(name)) for name in NEEDED[engine]),
        (_OTHER_TOKENIZER.get(engine, "texts differ"), _of_another_model),
    ]
    if engine == "openvino":
        damages += [(graph, _letters_exchanged(graph)) for graph in graphs.TOKENIZERS]
        damages += [
            (name, _cut(name, lambda size: size // 2))
            for name in NEEDED[engine]
            if name.startswith("openvino_")
        ]
    return damages


def _no_logits(*_: object) -> list[Check]:
    return []


@pytest.mark.parametrize("engine", WEIGHTS)
def test_a_damaged_folder_fails_and_its_damage_is_named(
    engine: str,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good = engine_artefacts.shared(engine, tmp_path_factory)
    monkeypatch.setattr(verification, "_parity", _no_logits)  # all of this is found before
    copy = tmp_path / "copy"
    for named, change in _damages(engine):
        shutil.copytree(good, copy)
        change(copy)
        done = run("verify", good.parent / "source", copy, "--threads", "1", "--json")
        assert done.exit_code == 1, (engine, named, done.output)
        said = done.output.replace(str(copy), "")
        wanted = "tokenizer" if named == "tokenizer.json" else named
        assert wanted in said, (engine, named, done.output)
        assert "unexpectedly" not in said and "Traceback" not in said, said
        shutil.rmtree(copy)

"""One tiny model as each engine takes it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

import kanna
from helpers import made_once, tiny_models

ENGINES = ("gguf", "onnx", "mlx", "openvino")
TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
_NEEDED = {
    "gguf": "xllamacpp",
    "onnx": "onnxruntime_genai",
    "mlx": "mlx_lm",
    "openvino": "openvino_tokenizers",
}


def source(folder: Path) -> Any:
    """A tiny model in `folder`, whose answers do not end by themselves too soon.

    Returns it as transformers has it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny_models.SMALL, "intermediate_size", 640)
        model = tiny_models.make("smollm", folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": TEMPLATE}))
    return model


def shared(engine: str, folders: pytest.TempPathFactory) -> Path:
    """The same for the tests of a whole run, made when it is first asked for."""
    folder = made_once.shared_folder(folders) / "engine-artefacts"
    made_once.once(folder / "source", source)
    name = f"{engine}.gguf" if engine == "gguf" else engine
    with FileLock(folder / f"{engine}.lock"):
        made = folder / name
        return made if made.exists() else artefact(engine, folder / "source", folder / engine)


def artefact(engine: str, folder: Path, out: Path) -> Path:
    """What `engine` runs of the model in `folder`, in float32.

    Skips the test where the engine is not installed.
    """
    if importlib.util.find_spec(_NEEDED[engine]) is None:
        pytest.skip(f"{_NEEDED[engine]} is not installed")
    if engine == "gguf":
        kanna.convert(folder, out.with_suffix(".gguf"), preset="F32", threads=1)
        return out.with_suffix(".gguf")
    if engine == "onnx":
        kanna.convert(folder, out, preset="onnx:fp32", threads=1)
    elif engine == "openvino":
        kanna.convert(folder, out, preset="openvino:f32", threads=1)
    else:
        from mlx_lm import convert

        convert(str(folder), str(out), dtype="float32")
    return out

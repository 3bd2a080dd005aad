"""A tokenizer as OpenVINO's graphs, made by openvino-tokenizers, unmodified."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path

from kanna._util.extras import command
from kanna._util.interpreter import module_command
from kanna._util.processes import started
from kanna.errors import KannaError, MissingError, UnsupportedError

NEEDED = ("openvino", "openvino_tokenizers", "transformers")
TOKENIZER, SETTINGS = "tokenizer.json", "tokenizer_config.json"
_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "chat_template")
_TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    " Two  spaces,\n\nlines\tand 1234567 numbers: it's what we've wanted!",
    "def f(x):\n    return x ** 2  # code",
    "Größe, naïveté, 東京へ行きます, привет, 你好, مرحبا",
    "Emoji 🙂🚀 and a flag 🇫🇷",
)


def require() -> None:
    """MissingError with the pip command when a package is not here; none is imported."""
    if absent := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise MissingError(
            f"{', '.join(absent)} is not installed here",
            expected="the extra openvino",
            todo=command("openvino"),
        )


def make(out: Path, scratch: Path, files: Mapping[str, bytes]) -> list[str]:
    """Write the graphs of a tokenizer and of its inverse to the folder `out`.

    Args:
        out: A folder that is there.
        scratch: A folder for what is needed meanwhile.
        files: Side files of the model by name.

    Returns:
        Notes on what the graph does otherwise than tokenizer.json.

    Raises:
        UnsupportedError: openvino-tokenizers cannot express it, or there is no tokenizer.json.
    """
    if TOKENIZER not in files:
        raise UnsupportedError(
            "the model has no tokenizer.json", expected="the tokenizer of a Hugging Face folder"
        )
    source = scratch / "tokenizer"
    source.mkdir()
    (source / TOKENIZER).write_bytes(files[TOKENIZER])
    settings = json.loads(files.get(SETTINGS, b"{}"))
    plain = {k: v for k, v in settings.items() if k in _TOKENS and v is not None}
    (source / SETTINGS).write_text(json.dumps(plain), encoding="utf-8")
    task = {"source": str(source), "out": str(out), "texts": list(_TEXTS)}
    with started(
        module_command("kanna.formats.openvino.tokenizer_worker", json.dumps(task))
    ) as child:
        output, complaints = child.communicate()
    if child.returncode:
        last = next((s for s in reversed(complaints.splitlines()) if s.strip()), "no message")
        raise UnsupportedError(
            f"openvino-tokenizers cannot express the tokenizer: {last.strip()[:300]}",
            todo="write a GGUF or an ONNX folder instead",
        )
    return _notes(output)


def _notes(output: str) -> list[str]:
    lines = output.strip().splitlines()
    try:
        differing = json.loads(lines[-1]) if lines else None
    except ValueError:
        differing = None
    if not isinstance(differing, list):
        raise KannaError("the worker of openvino-tokenizers gave no answer", todo="try again")
    if not differing:
        return []
    return [
        f"openvino_tokenizer.xml splits {len(differing)} of {len(_TEXTS)} sample texts otherwise "
        f"than tokenizer.json, {differing[0]!r:.60} for one: openvino-tokenizers made it so"
    ]

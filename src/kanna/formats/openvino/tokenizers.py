"""A tokenizer as OpenVINO's graphs, made by openvino-tokenizers, unmodified."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kanna._util.extras import command
from kanna._util.interpreter import module_command
from kanna._util.processes import started, was_killed
from kanna.checks import Check
from kanna.errors import KannaError, KilledError, MissingError, UnsupportedError
from kanna.formats.openvino import graphs

NEEDED = ("openvino", "openvino_tokenizers", "transformers")
TOKENIZER, SETTINGS = "tokenizer.json", "tokenizer_config.json"
_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "chat_template")
_CHECK = "tokenizer graphs"
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
            f"not installed here: {', '.join(absent)}",
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
    differing, problem = _ask(task)
    if problem:
        raise UnsupportedError(
            f"openvino-tokenizers cannot express the tokenizer: {problem}",
            todo="write a GGUF or an ONNX folder instead",
        )
    if not differing:
        return []
    return [f"{_otherwise(differing)}: openvino-tokenizers made it so"]


def check(folder: Path) -> Check:
    """Whether the graphs that openvino-genai reads are those of the folder's tokenizer.json.

    A plain sentence gets the same ids and comes back from them; other texts that are split
    otherwise are named.
    """
    absent = [name for name in graphs.TOKENIZERS if not (folder / name).is_file()]
    if absent:
        detail = f"{' and '.join(absent)} missing: openvino-genai reads no other tokenizer"
        return Check(name=_CHECK, ok=False, detail=detail)
    if absent := [name for name in NEEDED[:2] if importlib.util.find_spec(name) is None]:
        return Check(name=_CHECK, ok=None, detail=f"{absent[0]} is not here: {command('openvino')}")
    try:
        answer, problem = _ask({"folder": str(folder.absolute()), "texts": list(_TEXTS)})
    except KilledError as error:
        return Check(name=_CHECK, ok=None, detail=error.found)
    if problem:
        return Check(name=_CHECK, ok=False, detail=f"its graphs cannot be run: {problem}")
    differing, lost = answer
    if _TEXTS[0] in differing:
        return Check(name=_CHECK, ok=False, detail=_otherwise(differing))
    if _TEXTS[0] in lost:
        detail = f"{graphs.TOKENIZERS[1]} does not give {_TEXTS[0]!r} back"
        return Check(name=_CHECK, ok=False, detail=detail)
    detail = _otherwise(differing) if differing else f"the same ids on {len(_TEXTS)} texts"
    return Check(name=_CHECK, ok=True, detail=detail)


def _ask(task: Mapping[str, Any]) -> tuple[Any, str]:
    """What the worker answers, or the last line of what went wrong."""
    with started(
        module_command("kanna.formats.openvino.tokenizer_worker", json.dumps(task))
    ) as child:
        output, complaints = child.communicate()
    if was_killed(child.returncode):
        raise KilledError(
            "openvino-tokenizers was killed by the system, most likely for want of memory",
            todo="free memory, and run the command again",
        )
    if child.returncode:
        last = next((s for s in reversed(complaints.splitlines()) if s.strip()), "no message")
        return None, last.strip()[:300]
    lines = output.strip().splitlines()
    try:
        answer = json.loads(lines[-1]) if lines else None
    except ValueError:
        answer = None
    if not isinstance(answer, list):
        raise KannaError("the worker of openvino-tokenizers gave no answer", todo="try again")
    return answer, ""


def _otherwise(differing: Sequence[str]) -> str:
    return (
        f"{graphs.TOKENIZERS[0]} splits {len(differing)} of {len(_TEXTS)} sample texts otherwise "
        f"than tokenizer.json, {differing[0]!r:.60} for one"
    )

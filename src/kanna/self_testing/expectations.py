"""What an artefact answers where it was proved: a file that a device holds it to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kanna import __version__, provenance
from kanna.errors import FormatError, UsageError
from kanna.runtimes.base import Engine
from kanna.self_testing import runner
from kanna.tokenizer.chat import Message, render
from kanna.verification import parity

SUFFIX = ".selftest.json"
TOKENS, POSITIONS = 128, 8
BAND = 0.2
"""Nats that a log probability may differ: other processors round otherwise, by some hundredths."""
_FIRST = 8
_MESSAGES: list[Message] = [{"role": "user", "content": "Say one word."}]


def beside(artefact: Path) -> Path:
    """Where the expectations of an artefact are looked for."""
    return artefact.with_name(artefact.name + SUFFIX)


def record(engine: Engine, artefact: Path, place: str, hashes: Mapping[str, str]) -> dict[str, Any]:
    """What an artefact answers now.

    Args:
        engine: The artefact, open.
        artefact: The file or folder.
        place: Its path from the folder of the expectations.
        hashes: SHA-256 of its files, by their paths from there.
    """
    ids = engine.tokenize(parity.TEXT, add_bos=True)[:TOKENS]
    if len(ids) <= _FIRST:
        raise UsageError(f"{artefact} makes {len(ids)} tokens of a long text", expected="a model")
    logprobs = log_softmax(np.asarray(engine.logits(ids)))
    ordered = np.sort(logprobs, axis=-1)
    margins = ordered[:, -1] - ordered[:, -2]
    margins[: min(_FIRST, len(ids) - POSITIONS)] = -1
    clearest = _clearest(engine, logprobs.argmax(axis=-1), margins)
    return {
        "format": runner.FORMAT,
        "kanna": __version__,
        "artefact": place,
        "files": dict(sorted(hashes.items())),
        "template": _template(engine),
        "ids": [int(i) for i in ids],
        "positions": [
            {
                "at": at + 1,
                "token": int(logprobs[at].argmax()),
                "logprob": round(float(logprobs[at].max()), 5),
                "band": BAND,
            }
            for at in clearest
        ],
    }


def _clearest(
    engine: Engine, tokens: np.ndarray[Any, Any], margins: np.ndarray[Any, Any]
) -> list[int]:
    """Places where the model is sure of a token that is text of its own.

    llama.cpp's server gives no probabilities of a token that is part of a character.
    """
    chosen: list[int] = []
    for at in map(int, np.argsort(-margins)):
        token = int(tokens[at])
        text = engine.detokenize([token])
        if text and "\ufffd" not in text and not engine.eog(token):
            chosen.append(at)
        if len(chosen) == POSITIONS:
            break
    return sorted(chosen)


def files_of(artefact: Path, prefix: str) -> dict[str, Path]:
    """Files of an artefact by their path from the folder of the expectations.

    Args:
        artefact: The file or folder.
        prefix: The path from there to what names of its files begin at; "" or with a slash.
    """
    files = provenance.files_of(artefact)
    inner = f"{artefact.name}/" if artefact.is_dir() else ""
    return {f"{prefix}{inner}{name}": path for name, path in files.items()}


def log_softmax(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Log probabilities of logits, row by row."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def rendered(engine: Engine) -> str | None:
    """The conversation of the test as the artefact's template renders it; None without one."""
    if not engine.chat_template:
        return None
    bos, eos = (_text(engine, token) for token in (engine.bos, engine.eos))
    try:
        return render(engine.chat_template, _MESSAGES, bos=bos, eos=eos, add_generation_prompt=True)
    except FormatError:
        return None


def _template(engine: Engine) -> dict[str, Any] | None:
    text = rendered(engine)
    if text is None:
        return None
    return {"messages": list(_MESSAGES), "text": text, "bos": _text(engine, engine.bos)}


def _text(engine: Engine, token: int | None) -> str:
    return "" if token is None else engine.detokenize([token], special=True)

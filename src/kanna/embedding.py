"""The verb `embed`: texts as vectors."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kanna import runtimes
from kanna._util import atomic
from kanna._util.bars import shown
from kanna._util.results import Result
from kanna.errors import OutputError, UnsupportedError, UsageError
from kanna.formats import prompts
from kanna.model import F32
from kanna.runtimes.base import MakesVectors
from kanna.sources import locate

__all__ = ["Vectors", "embed"]

_SUFFIXES = (".npy", ".json")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Vectors(Result):
    """Texts with a vector of length 1 each.

    Attributes:
        model: What made them.
        texts: What they are of.
        vectors: f32 [texts, width]; the product of two is their cosine.
    """

    model: str
    texts: Sequence[str]
    vectors: F32

    def headline(self) -> str:
        """How many there are, and how wide."""
        count, width = self.vectors.shape
        return f"{count} {'vector' if count == 1 else 'vectors'} of {width} numbers"

    def to_dict(self) -> dict[str, Any]:
        """The vectors as JSON has them."""
        return {
            "model": self.model,
            "width": int(self.vectors.shape[1]),
            "texts": list(self.texts),
            "vectors": self.vectors.tolist(),
        }


def embed(
    path: str | Path,
    texts: str | Sequence[str],
    *,
    prompt: str | None = None,
    out: str | Path | None = None,
    threads: int | None = None,
    offline: bool = False,
) -> Vectors:
    """Turn texts into vectors with the file at `path`, pooled as it says, else by the mean.

    Args:
        path: A GGUF, an ONNX folder of an encoder, or any reference to one.
        texts: A text, or several.
        prompt: Name of the model's prompt that goes before each text, such as `query`; None: its
            default, if it has one; "": none.
        out: File to write, an array (.npy) or an object (.json); None: none.
        threads: Threads to use; None: one per physical core.
        offline: Use only what is on this machine already.

    Raises:
        UsageError: There is no text, or one without tokens or too long; the model has no such
            prompt; `out` is of another kind.
        UnsupportedError: The runtime of the file gives no vectors.
        OutputError: `out` exists or cannot be written.
    """
    listed = [texts] if isinstance(texts, str) else list(texts)
    if not listed:
        raise UsageError("no text was given", expected="at least one")
    if out is not None:
        _check_out(Path(out))
    artefact = locate(path, offline=offline, progress=shown(None))
    runtime = runtimes.of(artefact)
    if not isinstance(runtime, MakesVectors):
        raise UnsupportedError(
            f"{artefact} runs in {runtime.title}, from which kanna takes no vectors",
            expected="a GGUF, or an ONNX folder of an encoder",
            todo=f"convert it: kanna convert {path} -o model.gguf",
        )
    before = prompts.of_artefact(Path(artefact)).text(prompt)
    with runtime.open_encoder(artefact, threads=threads) as encoder:
        vectors = encoder.embed([before + text for text in listed])
    made = Vectors(model=str(path), texts=listed, vectors=vectors)
    if out is not None:
        _write(Path(out), made)
    return made


def _check_out(out: Path) -> None:
    if out.suffix not in _SUFFIXES:
        raise UsageError(f"the output {out}", expected=f"a file ending in {' or '.join(_SUFFIXES)}")
    if out.exists():
        raise OutputError(f"{out} exists", todo="choose another name, or remove it")


def _write(out: Path, made: Vectors) -> None:
    try:
        if out.suffix == ".json":
            atomic.write_json(out, made.to_dict())
        else:
            buffer = io.BytesIO()
            np.save(buffer, made.vectors)
            atomic.write_bytes(out, buffer.getvalue())
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {error.strerror}") from None

"""What a GGUF is for, by its metadata."""

from __future__ import annotations

from pathlib import Path

from kanna.errors import FormatError
from kanna.formats import vectors
from kanna.formats.gguf.read import GGUFFile, is_gguf, read


def makes_vectors(file: GGUFFile) -> bool:
    """Whether texts become vectors or scores in this file's model, and not further text.

    A decoder that was trained for vectors does too: it says how to pool the states of its tokens.
    """
    return pooling(file) != vectors.NONE or _encodes(file)


def ranks(file: GGUFFile) -> bool:
    """Whether a question and a text become a score."""
    return pooling(file) == vectors.RANK


def generates(file: GGUFFile) -> bool:
    """Whether llama.cpp generates text with it."""
    return not ranks(file) and not _encodes(file)


def may_generate(path: Path) -> bool:
    """Whether llama.cpp generates text with what is there; True of anything but a GGUF."""
    return not (path.is_file() and is_gguf(path)) or generates(read(path))


def require_text(path: Path) -> None:
    """Raise FormatError for a file that generates no text."""
    if not generates(read(path)):
        raise FormatError(
            f"{path} makes vectors or scores of texts: it generates none",
            expected="a GGUF of a model that generates text",
            todo="vectors are made by `kanna embed` and by /v1/embeddings of `kanna serve`",
        )


def require_vectors(path: Path) -> None:
    """Raise FormatError for a file that makes scores."""
    if path.is_file() and is_gguf(path) and ranks(read(path)):
        raise FormatError(
            f"{path} makes scores of a question and a text: it makes no vectors",
            expected="a GGUF that makes vectors, or generates text",
            todo="scores are made by /v1/rerank of `kanna serve`",
        )


def pooling(file: GGUFFile) -> int:
    """How it pools; NONE where it does not say."""
    value = file.value(f"{file.value('general.architecture')}.pooling_type")
    return value if isinstance(value, int) else vectors.NONE


def _encodes(file: GGUFFile) -> bool:
    arch = str(file.value("general.architecture"))
    return vectors.reads_both_ways(arch, lambda key: file.value(key.replace("{arch}", arch)))

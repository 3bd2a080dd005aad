"""Whether a vision tower and a model of text belong together, by the headers of their files."""

from __future__ import annotations

from pathlib import Path

from kanna.errors import FormatError
from kanna.families.towers.stored import ARCH, StoredTower, stored
from kanna.formats import gguf

# Tokens that llama.cpp puts around a picture by their text: it ends its process where the
# vocabulary has none (mtmd's init_vision, by projector).
_MARKERS = {"idefics3": ("\n\n", "\n", "<fake_token_around_image>", "<global-img>")}
_MAKE = "kanna convert SRC -o mmproj.gguf --mmproj, of the checkpoint that the model is of"


def check_pair(text: Path, mmproj: Path) -> StoredTower:
    """The tower of a file that sees for a model of text.

    Args:
        text: The GGUF of the text.
        mmproj: The GGUF of the tower.

    Raises:
        FormatError: The one is no model of text, the other no tower, its rows have another width
            than the model's tokens, or the vocabulary lacks what stands around a picture.
    """
    model, tower = _read(text), _read(mmproj)
    seen = stored(tower.metadata)
    if seen is None:
        raise FormatError(f"{mmproj} is no vision tower", expected="an mmproj", todo=_MAKE)
    arch = model.value("general.architecture")
    if arch == ARCH:
        raise FormatError(
            f"{text} is a vision tower: it writes no text",
            expected="the GGUF of the text, and this one as --mmproj",
        )
    width = model.value(f"{arch}.embedding_length")
    if seen.text_hidden is not None and seen.text_hidden != width:
        raise FormatError(
            f"{mmproj} gives rows of {seen.text_hidden} values, and tokens of {text} have {width}",
            expected="an mmproj of the same checkpoint",
            todo=_MAKE,
        )
    tokens = model.value("tokenizer.ggml.tokens", ())
    absent = [m for m in _MARKERS.get(seen.projector or "", ()) if not _has(tokens, m)]
    if absent:
        raise FormatError(
            f"{text} has no token {absent[0]!r}, which llama.cpp puts around a picture",
            expected="a vocabulary with " + ", ".join(map(repr, absent)),
            todo="convert the model again from a checkpoint whose tokenizer has it",
        )
    return seen


def _read(path: Path) -> gguf.GGUFFile:
    if not path.is_file() or not gguf.is_gguf(path):
        raise FormatError(f"{path} is no GGUF", expected="a .gguf file")
    return gguf.read(path)


def _has(tokens: object, text: str) -> bool:
    """Whether a vocabulary has a token of this text, in any of the ways that they are stored."""
    forms = {text, text.replace("\n", "\u010a")}  # GPT-2's letters for bytes
    if text == "\n":
        forms.add("<0x0A>")
    return any(form in forms for form in tokens)  # pyright: ignore

"""What an adapter learned from, as hashes beside it: text that judges it must not be among it.

The file holds no text, only signatures of MinHash, so that an adapter can be handed on.
"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kanna._util.atomic import write_json
from kanna._util.typed import text, whole
from kanna.errors import FormatError, UsageError
from kanna.formats.text_files import read_object
from kanna.training import near_duplicates
from kanna.training.examples import Example, Record
from kanna.training.near_duplicates import U32

FILE = "learned.json"
MOST = 1 << 15
"""Examples whose signatures are kept; of more, the first in their random order."""
_SAME = 61
"""Hashes of 64 from which an example was learned: 95 %, so that chance alone refuses nothing."""
_LEAST_WORDS = 8
"""Words of an example below which others may hold them by chance."""
_AGAIN = "train the adapter again, or delete the file"
_WORD = re.compile(r"\w+")


def write(folder: Path, records: Sequence[Record]) -> None:
    """Write the signatures of what was learned into the folder of an adapter.

    Args:
        folder: The folder.
        records: What was learned.
    """
    kept = records[:MOST]
    signatures = near_duplicates.signatures([one.words() for one in kept])
    packed = base64.b64encode(zlib.compress(signatures.astype("<u4").tobytes())).decode()
    write_json(folder / FILE, {"examples": len(kept), "signatures": packed})


def _read(folder: Path) -> U32 | None:
    """Signatures uint32 [examples, hashes]; None where an adapter was made by something else."""
    path = folder / FILE
    if not path.is_file():
        return None
    value, width = read_object(path, _AGAIN), near_duplicates.HASHES
    count, packed = value.need("examples", whole(0, MOST)), value.need("signatures", text())
    try:
        given = base64.b64decode(packed, validate=True)
        unpacked = zlib.decompressobj().decompress(given, 4 * width * count + 1)
        return np.frombuffer(unpacked, "<u4").reshape(count, width)
    except (ValueError, zlib.error):
        raise FormatError(f"{path} holds no signatures", todo=_AGAIN) from None


def refuse(folder: Path, given: Sequence[Example]) -> None:
    """Raise UsageError where examples that are to judge an adapter were learned by it.

    Args:
        folder: The adapter's.
        given: The examples.
    """
    signatures = _read(folder)
    if signatures is None or not len(signatures):
        return
    asked = near_duplicates.signatures([one.words() for one in given])
    learned = [
        one.where
        for one, signature in zip(given, asked, strict=True)
        if int((signatures == signature).sum(axis=1).max()) >= _SAME
    ]
    if learned:
        raise UsageError(
            f"{len(learned)} of {len(given)} examples that are to judge the adapter were learned "
            f"by it, first {learned[0]}",
            expected="examples that nothing was learned from",
            todo="leave --data out, for those that `kanna adapt` held out, or name others",
        )


def refuse_containing(path: Path, texts: Sequence[str], judging: Sequence[Example]) -> None:
    """Raise UsageError where a text holds, word for word, an example that judges what comes of it.

    Args:
        path: The file, for the error.
        texts: What it holds, in parts of which each is one text.
        judging: The examples.
    """
    every = [_words(part) for part in texts]
    joined = "\n".join(every)
    for one in judging:
        pieces = [words for piece in _pieces(one) if (words := _words(piece)).strip()]
        if sum(len(words.split()) for words in pieces) < _LEAST_WORDS:
            continue
        if all(words in joined for words in pieces) and any(
            all(words in part for words in pieces) for part in every
        ):
            raise UsageError(
                f"{path} holds a held-out example of the adapter ({one.where}) inside another text",
                expected="text to calibrate on without what judges the file",
                todo="take it out of the file, or give the examples as lines of .jsonl, as "
                "`kanna adapt` takes them: held-out ones among them are left out by themselves",
            )


def _pieces(example: Example) -> list[str]:
    """What of an example stands together in any form it is written in."""
    if not example.messages:
        return [example.prompt, example.text]
    kept = [m for m in example.messages if m["role"] not in ("system", "developer")]
    return [str(m.get("content") or "") for m in kept]


def _words(part: str) -> str:
    """Words in small letters, with a space around each."""
    return f" {' '.join(_WORD.findall(part.lower()))} "

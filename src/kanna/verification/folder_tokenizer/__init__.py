"""The tokenizer of a folder that is about to be written, against the source's.

A folder keeps tokenizer.json as it is in the source; one made of a GGUF gets one made of its keys.
Who reads it is the runtime's own library, which may read it otherwise. Each module beside this one
with a READER asks the library of one format.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from kanna._util import own_files, plugins
from kanna.conversion.base import WrittenArtefact
from kanna.errors import GateError, MissingError
from kanna.formats import folder_files
from kanna.runtimes.llamacpp import RUNTIME
from kanna.sources import Source
from kanna.tokenizer import library
from kanna.tokenizer.corpus import PLAIN
from kanna.tokenizer.files import TOKENIZER
from kanna.tokenizer.reference import TEXTS, LibraryReading, control_texts, read_by_library
from kanna.verification.folder_tokenizer.readings import Reader, TokenIds
from kanna.verification.written_tokenizer import different, shown

__all__ = ["TokenIds", "examine"]

_OF_WEIGHTS = ("quantization", "quantization_config", "torch_dtype", "dtype")
"""Keys of config.json that say how weights are stored."""
_END_OF_TEXT = "\0"
"""Where texts end for libraries in C."""


def examine(source: Source, written: WrittenArtefact) -> list[str]:
    """What the tokenizer of a folder does otherwise than the source's.

    Args:
        source: What is converted.
        written: The folder, before it has its name.

    Returns:
        Notes for the user.

    Raises:
        GateError: Plain text gets other ids by the tokenizer.json that is written.
    """
    if written.format not in plugins.names(__name__, "READER"):
        return []
    reader = cast(Reader, plugins.load(__name__, written.format, "READER"))
    with own_files.scratch() as scratch:
        files = _files(written, scratch)
        if TOKENIZER not in files:
            return []
        own = _load(files[TOKENIZER])
        return _made(source, own) + _by_runtime(source, own, files, reader)


def _files(written: WrittenArtefact, scratch: Path) -> Mapping[str, Path]:
    """Side files of the folder by name; in `scratch`, where they do not lie in one yet."""
    if written.folder is not None:
        return folder_files.files(written.folder)
    config = {k: v for k, v in written.config.items() if k not in _OF_WEIGHTS}
    for name, data in {**written.files, "config.json": json.dumps(config).encode()}.items():
        (scratch / name).parent.mkdir(exist_ok=True)
        (scratch / name).write_bytes(data)
    return folder_files.files(scratch)


def _load(path: Path) -> Any:
    from tokenizers import Tokenizer

    with library.refusals(f"the {TOKENIZER} of the folder cannot be read"):
        tokenizer: Any = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _ids(own: Any, texts: Sequence[str], *, framed: bool) -> list[list[int]]:
    with library.refusals(f"{TOKENIZER} cannot split a text"):
        return [own.encode(text, add_special_tokens=framed).ids for text in texts]


def _made(source: Source, own: Any) -> list[str]:
    """Notes on a tokenizer.json that the source does not have, against what reads the source."""
    if TOKENIZER in source.files:
        return []
    judge = _in_llama_cpp if source.kind == "gguf" else _by_library
    expected = judge(source)
    if expected is None:
        return []
    differing = different(TEXTS, expected.ids, _ids(own, TEXTS, framed=expected.framed))
    plain = [d for d in differing if d[0] in PLAIN]
    if plain:
        raise GateError(
            f"the {TOKENIZER} made of the source gives plain text other token ids than "
            f"{expected.name}: {shown(*plain[0])}",
            expected="the same ids",
            todo="convert the folder that the model was published in",
        )
    return [
        f"the {TOKENIZER} made of the source gives other token ids than {expected.name} for "
        f"{len(differing)} of {len(TEXTS)} texts that try it: {shown(*text)}"
        for text in differing[:1]
    ]


def _in_llama_cpp(source: Source) -> TokenIds | None:
    try:
        with RUNTIME.open(source.path, vocab_only=True) as engine:
            ids = [engine.tokenize(text, add_bos=True, special=True) for text in TEXTS]
    except MissingError:
        return None
    return TokenIds(name="llama.cpp", ids=ids, framed=True)


def _by_library(source: Source) -> TokenIds | None:
    reading = read_by_library(source.files)
    if not isinstance(reading, LibraryReading) or reading.is_empty:
        return None
    return TokenIds(name=reading.name, ids=reading.ids, framed=True)


def _by_runtime(source: Source, own: Any, files: Mapping[str, Path], reader: Reader) -> list[str]:
    """Notes on what the runtime's library makes of the files."""
    added = [token.content for token in own.get_added_tokens_decoder().values()]
    texts = [t.replace(_END_OF_TEXT, "") for t in (*TEXTS, *control_texts(added))]
    reading = reader(files, texts)
    if isinstance(reading, str):
        return [f"the token ids of the folder were not checked: {reading}"]
    differing = different(texts, _ids(own, texts, framed=reading.framed), reading.ids)
    # Plain text first: what differs there differs everywhere.
    differing.sort(key=lambda row: row[0] not in PLAIN)
    if differing and differing[0][0] not in PLAIN and _as_published(source, texts, reading):
        return []
    return [
        f"{reading.name} gives other token ids than {TOKENIZER}, which kanna goes by, for "
        f"{len(differing)} of {len(texts)} texts that try it: {shown(*text)}"
        for text in differing[:1]
    ]


def _as_published(source: Source, texts: Sequence[str], reading: TokenIds) -> bool:
    """Whether the source's own library reads the source as the runtime reads the folder."""
    if source.kind != "hf" or not reading.framed:
        return False
    published = read_by_library(source.files, texts)
    return isinstance(published, LibraryReading) and published.ids == reading.ids

"""The tokenizer that a conversion is about to write, against the source's own library.

Before a weight is written, llama.cpp reads the vocabulary alone. Ids of plain text that differ are
a reason to refuse; others are named in a note, as is what the source's libraries do differently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from kanna._util import own_files
from kanna.errors import FormatError, GateError, MissingError, TemplateLimitError
from kanna.formats import gguf
from kanna.model import MetaValue
from kanna.runtimes.llamacpp import RUNTIME
from kanna.sources import Source
from kanna.tokenizer import library
from kanna.tokenizer.chat import render
from kanna.tokenizer.corpus import CONVERSATIONS, PLAIN
from kanna.tokenizer.reference import (
    TEXTS,
    LibraryReading,
    control_texts,
    own_tokenizer,
    read_by_library,
)

_ADDED = (3, 4)
"""Types of control tokens and of user-defined ones."""
_NORMAL = 1
_BRACKETS = ("<>", "[]", "▁>", "_>")
_MOST_BRACKETED = 256


def examine(source: Source, metadata: Mapping[str, MetaValue]) -> list[str]:
    """What the tokenizer in a GGUF's metadata does otherwise than the source's.

    Args:
        source: What is converted.
        metadata: The keys of the GGUF.

    Returns:
        Notes for the user.

    Raises:
        GateError: Plain text gets other ids in llama.cpp.
    """
    if source.kind != "hf":
        return []
    with ThreadPoolExecutor(1) as beside:  # a process of its own, while llama.cpp loads
        reading = beside.submit(read_by_library, source.files)
        notes = _ids(source, metadata)
    return notes + _by_library(source, metadata, reading.result())


def _ids(source: Source, metadata: Mapping[str, MetaValue]) -> list[str]:
    """The ids of llama.cpp against those of tokenizer.json, by the library of that file."""
    own = own_tokenizer(source)
    if own is None:
        return []
    texts = [
        *TEXTS,
        *control_texts(_controls(metadata)),
        *(f"a{token}b {token}" for token in _bracketed(metadata)),
    ]
    with library.refusals("the source's tokenizer cannot split a text"):
        ids = [own.encode(t).ids for t in texts]
    return _judged(metadata, texts, ids, "the source's tokenizer")


def _judged(
    metadata: Mapping[str, MetaValue],
    texts: Sequence[str],
    expected: Sequence[list[int]],
    judge: str,
) -> list[str]:
    """Notes on ids that differ in llama.cpp; raises GateError where those of plain text do."""
    try:
        actual = _in_llama_cpp(metadata, texts)
    except MissingError:
        return []
    differing = different(texts, expected, actual)
    plain = [d for d in differing if d[0] in PLAIN]
    if plain:
        raise GateError(
            f"llama.cpp gives plain text other token ids than {judge}: {shown(*plain[0])}",
            expected="the same ids",
            todo="write a folder of another runtime, which keeps the tokenizer as it is: "
            "--preset mlx:q8 or onnx:q4",
        )
    if not differing:
        return []
    return [
        f"llama.cpp gives other token ids than {judge} for {len(differing)} of {len(texts)} texts "
        f"that try it: {shown(*differing[0])}"
    ]


def _by_library(
    source: Source, metadata: Mapping[str, MetaValue], reading: LibraryReading | str
) -> list[str]:
    """What transformers makes of the source: ids, templates, special tokens."""
    own = own_tokenizer(source)
    if isinstance(reading, LibraryReading) and reading.is_empty:
        reading = f"{reading.name} finds no vocabulary for {reading.kind}"
    if isinstance(reading, str):
        return [f"the token ids were not checked: {reading}"] if own is None else []
    if own is None:
        notes = _judged(metadata, TEXTS, reading.ids, reading.name)
    else:
        with library.refusals("the source's tokenizer cannot split a text"):
            ids = [own.encode(t).ids for t in TEXTS]
        apart = different(TEXTS, ids, reading.ids)
        notes = [
            f"{reading.name} ({reading.kind}) gives other ids than tokenizer.json, whose ids the "
            f"GGUF has, for {len(apart)} of {len(TEXTS)} texts: {shown(*text)}"
            for text in apart[:1]
        ]
    return notes + _templates(metadata, reading) + _special(metadata, reading)


def different(
    texts: Sequence[str], expected: Sequence[list[int]], actual: Sequence[list[int]]
) -> list[tuple[str, list[int], list[int]]]:
    """The texts whose ids differ, with both."""
    rows = zip(texts, expected, actual, strict=True)
    return [(text, list(a), list(b)) for text, a, b in rows if list(a) != list(b)]


def shown(text: str, expected: list[int], actual: list[int]) -> str:
    """A text, and where its ids begin to differ."""
    shorter = min(len(expected), len(actual))
    at = next((i for i in range(shorter) if expected[i] != actual[i]), shorter)
    return f"{text[:40]!r}: {expected[at : at + 4]} became {actual[at : at + 4]} at token {at}"


def _controls(metadata: Mapping[str, MetaValue]) -> list[str]:
    tokens, types = (metadata[f"tokenizer.ggml.{k}"].value for k in ("tokens", "token_type"))
    return [
        t for wanted in _ADDED for t, kind in zip(tokens, types, strict=True) if int(kind) == wanted
    ]


def _bracketed(metadata: Mapping[str, MetaValue]) -> list[str]:
    """Plain tokens that look like control tokens: by names alone llama.cpp makes some of them so.

    `</s>` of a vocabulary that trained on HTML is one, and is then cut out of every text.
    """
    tokens, types = (metadata[f"tokenizer.ggml.{k}"].value for k in ("tokens", "token_type"))
    return [
        token
        for token, kind in zip(tokens, types, strict=True)
        if int(kind) == _NORMAL and token[:1] + token[-1:] in _BRACKETS and len(token) > 2
    ][:_MOST_BRACKETED]


def _in_llama_cpp(metadata: Mapping[str, MetaValue], texts: Sequence[str]) -> list[list[int]]:
    """Ids by llama.cpp, of a file with the vocabulary alone.

    Raises:
        MissingError: llama.cpp is not here.
        GateError: It does not load such a file.
    """
    with own_files.scratch() as folder:
        path = folder / "vocabulary.gguf"
        gguf.write(path, metadata=dict(metadata), tensors=[])
        try:
            with RUNTIME.open(path, vocab_only=True) as engine:
                return [engine.tokenize(t, add_bos=True, special=True) for t in texts]
        except FormatError as error:
            raise GateError(
                f"llama.cpp does not load the tokenizer: {error.found}", todo=error.todo
            ) from error


def _templates(metadata: Mapping[str, MetaValue], reading: LibraryReading) -> list[str]:
    """Conversations rendered from the GGUF's template, against transformers."""
    template = metadata.get("tokenizer.chat_template")
    cases = [(messages, prompt) for messages in CONVERSATIONS for prompt in (True, False)]
    errors = [r["error"] for r in reading.rendered if "error" in r]
    if errors and len(errors) == len(cases):
        return [f"the chat template renders no conversation: {errors[0]}"]
    for (messages, prompt), expected in zip(cases, reading.rendered, strict=True):
        if template is None:
            if "text" in expected:
                return [f"the chat template that {reading.name} takes is not in the GGUF"]
            continue
        try:
            actual = _rendered(str(template.value), messages, prompt, metadata)
        except TemplateLimitError as error:
            return [error.found]
        if actual != expected.get("text"):
            return [
                f"{reading.name} renders the chat template otherwise: "
                f"{str(expected.get('text', expected))[:80]!r} became {str(actual)[:80]!r}"
            ]
    return []


def _rendered(
    template: str,
    messages: Sequence[Mapping[str, str]],
    prompt: bool,
    metadata: Mapping[str, MetaValue],
) -> str | None:
    tokens = metadata["tokenizer.ggml.tokens"].value

    def text(name: str) -> str:
        entry = metadata.get(f"tokenizer.ggml.{name}_token_id")
        return "" if entry is None else str(tokens[int(entry.value)])

    try:
        return render(
            template, messages, bos=text("bos"), eos=text("eos"), add_generation_prompt=prompt
        )
    except TemplateLimitError:
        raise
    except FormatError:
        return None


def _special(metadata: Mapping[str, MetaValue], reading: LibraryReading) -> list[str]:
    """Tokens that begin and end a text, where transformers names others."""
    notes: list[str] = []
    for name, expected in (("bos", reading.bos), ("eos", reading.eos)):
        entry = metadata.get(f"tokenizer.ggml.{name}_token_id")
        if expected is not None and (entry is None or int(entry.value) != expected):
            there = "none" if entry is None else entry.value
            notes.append(f"the {name} token is {expected} in {reading.name}, {there} in the GGUF")
    return notes

"""Tokenizer, chat template and end-of-turn tokens of an artefact, against the source's."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kanna._util import extras
from kanna.checks import Check, verdict
from kanna.errors import FormatError, KannaError, MissingError, TemplateLimitError
from kanna.formats import gguf
from kanna.generation import chat_ids
from kanna.model import Model
from kanna.runtimes.base import Engine
from kanna.runtimes.llamacpp import RUNTIME
from kanna.sources import Source
from kanna.tokenizer import library, special_tokens, templates
from kanna.tokenizer.chat import Message, render
from kanna.tokenizer.corpus import CONVERSATIONS, CORPUS, PLAIN
from kanna.tokenizer.reference import LibraryReading, own_tokenizer, read_by_library


def check_tokenizer(source: Source, model: Model, engine: Engine) -> Check:
    """The tokenizer's metadata is carried over, and the runtime's ids equal the source's."""
    lost = [] if engine.path.is_dir() else _not_carried(model, engine.path)
    if lost:
        return Check(name="tokenizer", ok=False, detail=f"not carried over: {', '.join(lost[:6])}")
    texts = [*CORPUS, *_rendered(source_template(source, model), "", "")]
    try:
        differing = _differing(source, engine, texts)
    except (ImportError, MissingError) as error:
        return Check(
            name="tokenizer", ok=None, detail=f"the source's tokenizer cannot be run here: {error}"
        )
    if differing:
        detail = f"{len(differing)} of {len(texts)} texts differ: {'; '.join(differing[:3])}"
        return Check(name="tokenizer", ok=False, detail=detail)
    prefix = "" if engine.path.is_dir() else "metadata equal, "
    return Check(name="tokenizer", ok=True, detail=f"{prefix}the same ids on {len(texts)} texts")


def check_words(source: Source, model: Model, engine: Engine) -> Check:
    """As `check_tokenizer`, of a model that makes vectors.

    llama.cpp splits some scripts into other words than BERT's library: such texts are named, and
    none of them is plain.
    """
    lost = [] if engine.path.is_dir() else _not_carried(model, engine.path)
    if lost:
        return Check(name="tokenizer", ok=False, detail=f"not carried over: {', '.join(lost[:6])}")
    try:
        plain = _differing(source, engine, list(PLAIN))
        others = _differing(source, engine, list(CORPUS))
    except (ImportError, MissingError) as error:
        return Check(
            name="tokenizer", ok=None, detail=f"the source's tokenizer cannot be run here: {error}"
        )
    count = len(PLAIN) + len(CORPUS)
    if plain:
        return Check(name="tokenizer", ok=False, detail=f"plain text differs: {plain[0]}")
    detail = f"the same ids on {count - len(others)} of {count} texts"
    return Check(
        name="tokenizer", ok=True, detail=detail + (f"; {'; '.join(others[:2])}" if others else "")
    )


# What llama.cpp takes for a key that is not there, by kind of tokenizer.
_IMPLIED: dict[Any, dict[str, Any]] = {"gpt2": {"tokenizer.ggml.add_space_prefix": False}}


def _not_carried(model: Model, path: Path) -> list[str]:
    """Keys of the tokenizer that the artefact lacks or has otherwise.

    The chat template has a check of its own.
    """
    here = gguf.read(path)
    keys = [
        k
        for k in model.metadata
        if k.startswith("tokenizer.") and not k.startswith("tokenizer.chat_template")
    ]
    implied = _IMPLIED.get(model.meta("tokenizer.ggml.model"), {})
    return [k for k in keys if not _equal(model.metadata[k].value, here.value(k, implied.get(k)))]


def _differing(source: Source, engine: Engine, texts: list[str]) -> list[str]:
    """Texts whose ids differ, and where. Raises ImportError when a tokenizer needs a package."""
    if source.kind == "gguf":
        with RUNTIME.open(source.path, vocab_only=True) as original:
            expected = [original.tokenize(t, add_bos=True, special=True) for t in texts]
        actual = [engine.tokenize(t, add_bos=True, special=True) for t in texts]
    else:
        reference = _hf_tokenizer(source)
        expected = [reference(t) for t in texts]
        actual = [engine.tokenize(t, special=True) for t in texts]
    differing: list[str] = []
    for text, a, b in zip(texts, expected, actual, strict=True):
        if a != b:
            shorter = min(len(a), len(b))
            at = next((i for i in range(shorter) if a[i] != b[i]), shorter)
            differing.append(
                f"{text[:40]!r}: {a[at : at + 5]} became {b[at : at + 5]} at token {at}"
            )
    return differing


def _rendered(template: Any, bos: str, eos: str) -> list[str]:
    if not isinstance(template, str):
        return []
    rendered: list[str] = []
    for messages in CONVERSATIONS:
        try:
            rendered.append(render(template, messages, bos=bos, eos=eos))
        except FormatError:
            continue
    return rendered


def _hf_tokenizer(source: Source) -> Callable[[str], list[int]]:
    """A function text → ids, without framing.

    Raises ImportError when it needs a package that is not here.
    """
    if (own := own_tokenizer(source)) is not None:

        def fast(text: str) -> list[int]:
            with library.refusals("the source's tokenizer cannot split a text"):
                return own.encode(text, add_special_tokens=False).ids

        return fast
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise ImportError(
            "tokenizer.model needs transformers and sentencepiece: " + extras.command("torch")
        ) from None
    loaded: Any = AutoTokenizer.from_pretrained(
        str(source.path), local_files_only=True, trust_remote_code=False
    )

    def slow(text: str) -> list[int]:
        return loaded.encode(text, add_special_tokens=False)

    return slow


def _equal(a: Any, b: Any) -> bool:
    if (
        b is None
        or isinstance(a, (str, int, float, bool))
        or isinstance(b, (str, int, float, bool))
    ):
        return bool(a == b)
    return len(a) == len(b) and all(x == y for x, y in zip(a, b, strict=True))


def source_template(source: Source, model: Model) -> str | None:
    """The chat template as the source has it, read from its own files."""
    if source.kind == "gguf":
        assert source.gguf is not None
        return source.gguf.value("tokenizer.chat_template")
    return templates.choose(templates.read(source.files, _settings(source)))


def _settings(source: Source) -> dict[str, Any]:
    """The tokenizer's settings in a source's own files."""
    config, token_map = (
        source.json(name) or {} for name in ("tokenizer_config.json", "special_tokens_map.json")
    )
    return special_tokens.settings(config, token_map)


def check_template(source: Source, model: Model, engine: Engine) -> Check:
    """The source's chat template and the artefact's render conversations alike."""
    template = source_template(source, model)
    if not template:
        if engine.chat_template:
            return Check(
                name="chat template",
                ok=False,
                detail="the file carries one, the source does not",
            )
        return Check(name="chat template", ok=True, detail="neither has one")
    if not engine.chat_template:
        return Check(
            name="chat template", ok=False, detail="lost: the source has one, the file does not"
        )
    cases = [(messages, prompt) for messages in CONVERSATIONS for prompt in (True, False)]
    try:
        actual = [_outcome(engine.chat_template, engine, *case) for case in cases]
        expected, by = _expected(source, template, engine, cases)
    except (TemplateLimitError, MissingError) as error:
        return Check(name="chat template", ok=verdict(error), detail=error.found)
    for a, b in zip(expected, actual, strict=True):
        if a != b:
            return Check(name="chat template", ok=False, detail=f"{a!r} became {b!r}, {by}"[:400])
    if all(text.startswith(_FAILED) for text in actual):
        failed = actual[0].removeprefix(_FAILED)
        return Check(name="chat template", ok=False, detail=f"renders no conversation: {failed}")
    count = sum(not text.startswith(_FAILED) for text in actual)
    return Check(
        name="chat template", ok=True, detail=f"renders equal, {count} conversations, {by}"
    )


_FAILED = "\0"


def _expected(
    source: Source,
    template: str,
    engine: Engine,
    cases: Sequence[tuple[Sequence[Message], bool]],
) -> tuple[list[str], str]:
    """The conversations as the source's own library renders them, and whose work that is."""
    reading = "a GGUF names no library of its own"
    if source.kind == "hf":
        reading = read_by_library(source.files)
        if isinstance(reading, LibraryReading) and any(reading.rendered):
            texts = [r.get("text", _FAILED) for r in reading.rendered]
            return texts, f"as {reading.name} renders them"
    why = reading if isinstance(reading, str) else f"{reading.name} finds no template"
    return [_outcome(template, engine, *c) for c in cases], f"both rendered by kanna: {why}"


def _outcome(template: str, engine: Engine, messages: Sequence[Message], prompt: bool) -> str:
    """The text of a conversation, or a mark where the template refuses it."""
    bos, eos = (_text(engine, t) for t in (engine.bos, engine.eos))
    try:
        return render(template, messages, bos=bos, eos=eos, add_generation_prompt=prompt)
    except TemplateLimitError:  # it would take as long for every conversation
        raise
    except FormatError:
        return _FAILED


def _text(engine: Engine, token: int | None) -> str:
    return "" if token is None else engine.detokenize([token], special=True)


def source_stops(source: Source, model: Model) -> set[int]:
    """Ids that end a generation, by the source's configuration and metadata."""
    if source.kind == "gguf":
        keys = (
            "tokenizer.ggml.eos_token_id",
            "tokenizer.ggml.eot_token_id",
            "tokenizer.ggml.eom_token_id",
        )
        return {int(v) for k in keys if (v := model.meta(k)) is not None}
    tokens: Sequence[str] = model.meta("tokenizer.ggml.tokens") or []
    own = own_tokenizer(source)
    find = own.token_to_id if own is not None else {t: i for i, t in enumerate(tokens)}.get
    configs = [source.config, source.json("generation_config.json") or {}]
    stops = set(special_tokens.end_ids(_settings(source), configs, find))
    rows = int(source.config.get("vocab_size") or len(tokens))
    return {i for i in stops if 0 <= i < max(rows, len(tokens))}


def check_stop(source: Source, model: Model, engine: Engine) -> Check:
    """Every token that ends a turn for the source ends a generation in the runtime."""
    stops = source_stops(source, model)
    lost = sorted(i for i in stops if not engine.eog(i))
    if lost:
        names = ", ".join(f"{i} {json.dumps(_text(engine, i))}" for i in lost)
        return Check(name="end of turn", ok=False, detail=f"the file does not stop at {names}")
    if not stops:
        return Check(
            name="end of turn",
            ok=not engine.chat_template,
            detail="the source names no end-of-sequence token",
        )
    names = ", ".join(json.dumps(_text(engine, i)) for i in sorted(stops))
    if engine.eos is not None and engine.eos not in stops:
        detail = f"ends with {json.dumps(_text(engine, engine.eos))}, the source with {names}"
        return Check(name="end of turn", ok=False, detail=detail)
    if not engine.chat_template:
        return Check(name="end of turn", ok=True, detail=f"stops at {names}")
    try:
        ids = chat_ids(engine, [{"role": "user", "content": "Say hi."}])
        for _ in engine.generate(ids, max_tokens=48):
            pass
    except KannaError as error:
        detail = f"a conversation fails: {error.found}"
        return Check(name="end of turn", ok=verdict(error), detail=detail)
    ended = (
        f"an answer ended after {engine.last.tokens} tokens"
        if engine.last.reason == "eog"
        else "no answer ended in 48"
    )
    return Check(name="end of turn", ok=True, detail=f"stops at {names}; {ended}")

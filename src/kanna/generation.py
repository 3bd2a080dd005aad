"""Run an artefact: continue a prompt, or answer a conversation through its chat template."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypedDict, cast

from kanna import escaping, runtimes
from kanna._util.bars import shown
from kanna._util.results import Result
from kanna.errors import MissingError, UnsupportedError, UsageError
from kanna.runtimes import picture_prompt
from kanna.runtimes.adapters import AdapterChoice, scales
from kanna.runtimes.base import (
    Engine,
    GenerationStats,
    Sampling,
    SeeingEngine,
    TakesAdapters,
)
from kanna.sources import locate
from kanna.tokenizer.chat import Message, render

_MESSAGES = 'a text, or a list of {"role": "user", "content": "…"}'

# The engine used last stays loaded, so that the next turn of a conversation reads new tokens alone.
_open: dict[tuple[Any, ...], Engine] = {}
_places: dict[str, Path] = {}


_COMPLETE = ("eog", "stop", "length")
"""Reasons of a generation that gave what was asked for."""


class Generating(TypedDict):
    """How an answer is generated, by the names of `Engine.generate`."""

    max_tokens: int
    sampling: Sampling
    stop: Sequence[str]


class Answer(Result, Iterator[str]):
    """Text as it comes: iterate over it for its pieces, or ask for all of it with `text`.

    Args:
        engine: What generates it.
        pieces: The text as the engine yields it.

    Attributes:
        usage: Tokens, times and why it ended, of what was read so far; its reason may also be
            `closed` or `error`.
    """

    __slots__ = ("_engine", "_ended", "_pieces", "_read", "usage")

    def __init__(self, engine: Engine, pieces: Iterator[str]) -> None:
        self._engine, self._pieces = engine, pieces
        self._read: list[str] = []
        self._ended = False
        self.usage = GenerationStats()

    def __iter__(self) -> Answer:
        return self

    def __next__(self) -> str:
        try:
            piece = next(self._pieces)
        except StopIteration:
            if not self._ended:
                self._ended, self.usage = True, self._engine.last
            raise
        except BaseException:
            self._end_early("error")
            raise
        self.usage = self._engine.last
        self._read.append(piece)
        return piece

    def _end_early(self, reason: str) -> None:
        if not self._ended:
            # A copy: the figures may be the engine's own.
            self._ended, self.usage = True, replace(self.usage, reason=reason)

    @property
    def text(self) -> str:
        """The whole answer; what was not read yet is generated now."""
        for _ in self:
            pass
        return "".join(self._read)

    @property
    def ok(self) -> bool:
        """Whether it came to its end, or to the tokens that were asked for; generates the rest.

        False where the context was full, or where it was closed or failed before its end.
        """
        for _ in self:
            pass
        return self.usage.reason in _COMPLETE

    def close(self) -> None:
        """Stop the engine; what was read stays."""
        if isinstance(self._pieces, Generator):
            self._pieces.close()
        self._end_early("closed")

    def headline(self) -> str:
        """How much was read; generates nothing."""
        state = f"ended by {self.usage.reason}" if self._ended else "not read to its end"
        return f"{len(''.join(self._read))} characters, {state}"

    def facts(self) -> Sequence[tuple[str, object]]:
        """The answer and its figures for a notebook; generates the rest."""
        text, usage = self.text, self.usage
        return (("text", text), ("tokens", usage.tokens), ("prompt tokens", usage.prompt_tokens))

    def to_dict(self) -> dict[str, Any]:
        """The answer with its figures as JSON has them."""
        return {"text": self.text, "ok": self.ok, "usage": asdict(self.usage)}


def generate(
    path: str | Path,
    prompt: str,
    *,
    max_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 0.95,
    seed: int | None = 0,
    stop: str | Sequence[str] = (),
    threads: int | None = None,
    context: int = 4096,
    chat: bool = False,
    adapter: AdapterChoice = None,
    mmproj: str | Path | None = None,
    image: Any = (),
    offline: bool = False,
) -> Answer:
    """Continue `prompt` with the file at `path`, yielding text as it comes.

    Raises MissingError without its runtime, FormatError for a file that does not load or a picture
    that is none, UsageError when the prompt does not fit the context.

    Args:
        path: A GGUF or a folder that a runtime loads, or any reference to one.
        prompt: Text to go on with.
        max_tokens: New tokens at most.
        temperature: 0 takes the likeliest token each time.
        top_p: Take from the likeliest tokens that together have this much of the probability.
        seed: Of the random choices; None: another one each time.
        stop: Text or texts that end the answer.
        threads: Threads to use; None: one per physical core that other programs leave free.
        context: Tokens of prompt and answer together.
        chat: Put the prompt into the model's chat template first.
        adapter: A LoRA adapter in GGUF, `lora.gguf` or `lora.gguf:0.5` with its scale, or several.
        mmproj: The vision tower, an mmproj of the same checkpoint; None: the model reads no
            pictures.
        image: A picture or several, PNG or JPEG: paths, bytes of files, or Pillow's images. They
            come before the prompt, or where it has `<__media__>`.
        offline: Use only what is on this machine already.
    """
    seen = picture_prompt.files(image, mmproj)
    engine = open_engine(
        path, threads=threads, context=context, adapter=adapter, mmproj=mmproj, offline=offline
    )
    messages: list[Message] = [{"role": "user", "content": prompt}]
    how = Generating(
        max_tokens=max_tokens,
        sampling=Sampling(temperature=temperature, top_p=top_p, seed=seed),
        stop=[stop] if isinstance(stop, str) else stop,
    )
    if seen:
        return Answer(engine, _look(engine, messages, seen, how, chat=chat))
    if chat:
        ids = chat_ids(engine, messages)
    else:
        ids = engine.tokenize(prompt, add_bos=True) or [
            engine.bos if engine.bos is not None else engine.eos or 0
        ]
    return Answer(engine, engine.generate(ids, **how))


def chat(
    path: str | Path,
    messages: str | Message | Sequence[Message],
    *,
    max_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 0.95,
    seed: int | None = 0,
    system: str | None = None,
    stop: str | Sequence[str] = (),
    threads: int | None = None,
    context: int = 4096,
    adapter: AdapterChoice = None,
    mmproj: str | Path | None = None,
    image: Any = (),
    offline: bool = False,
) -> Answer:
    """Answer a conversation; options as for `generate`.

    The model stays loaded between calls, so a growing conversation reads only what is new. Raises
    UsageError when the model carries no chat template, the messages are none, or the conversation
    no longer fits the context.

    Args:
        path: A GGUF or a folder that a runtime loads, or any reference to one.
        messages: What the user says, or a list of {"role": "user"|"assistant"|"system",
            "content": text}.
        max_tokens: New tokens at most.
        temperature: 0 takes the likeliest token each time.
        top_p: Take from the likeliest tokens that together have this much of the probability.
        seed: Of the random choices; None: another one each time.
        system: A system message that comes first.
        stop: Text or texts that end the answer.
        threads: None: one per physical core that other programs leave free.
        context: Tokens of the conversation and the answer together.
        adapter: A LoRA adapter in GGUF, `lora.gguf` or `lora.gguf:0.5` with its scale, or several.
        mmproj: The vision tower, as for `generate`.
        image: Any, as for `generate`: they come first in the user's first message, or where
            messages have `<__media__>`.
        offline: Use only what is on this machine already.
    """
    conversation = as_messages(messages)
    if system:
        conversation = [{"role": "system", "content": system}, *conversation]
    seen = picture_prompt.files(image, mmproj)
    engine = open_engine(
        path, threads=threads, context=context, adapter=adapter, mmproj=mmproj, offline=offline
    )
    how = Generating(
        max_tokens=max_tokens,
        sampling=Sampling(temperature=temperature, top_p=top_p, seed=seed),
        stop=[stop] if isinstance(stop, str) else stop,
    )
    if seen:
        return Answer(engine, _look(engine, conversation, seen, how, chat=True))
    return Answer(engine, engine.generate(chat_ids(engine, conversation), **how))


def as_messages(given: str | Message | Sequence[Message]) -> Sequence[Message]:
    """A conversation: a text is what the user says, one message stands for itself.

    Raises UsageError for what is neither a text nor messages with a role.
    """
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    messages = [given] if isinstance(given, Mapping) else list(given)
    if not messages:
        raise UsageError("a conversation without a message", expected=_MESSAGES)
    for message in messages:
        if not _is_message(message):
            raise UsageError(f"a message that is {message!r:.80}", expected=_MESSAGES)
    return messages


def _is_message(given: object) -> bool:
    return isinstance(given, dict) and isinstance(given.get("role"), str)  # pyright: ignore[reportUnknownMemberType]


def _look(
    engine: Engine,
    messages: Sequence[Message],
    seen: Sequence[bytes],
    how: Generating,
    *,
    chat: bool,
) -> Iterator[str]:
    """The answer to messages with pictures, through the chat template where `chat`."""
    placed = picture_prompt.placed(messages, len(seen), apart="\n" if chat else "")
    prompt = chat_text(engine, placed) if chat else str(placed[0]["content"])
    if chat and engine.adds_bos:
        # The template wrote BOS already, and the tokenizer adds it again.
        prompt = prompt.removeprefix(_text(engine, engine.bos))
    return cast("SeeingEngine", engine).generate_seeing(prompt, seen, **how)


def chat_ids(engine: Engine, messages: Sequence[Message], **variables: Any) -> list[int]:
    """Token ids of a conversation up to where the assistant begins.

    They begin with exactly one BOS where the model has one. Raises UsageError when the model
    carries no chat template, and what `render` raises, which gets the variables.
    """
    ids = engine.tokenize(chat_text(engine, messages, **variables), add_bos=True, special=True)
    # The template wrote BOS already and the tokenizer added it again.
    return ids[1:] if len(ids) > 1 and ids[0] == ids[1] == engine.bos else ids


def chat_text(engine: Engine, messages: Sequence[Message], **variables: Any) -> str:
    """A conversation up to where the assistant begins, as the model's chat template writes it.

    Raises UsageError when the model carries none, and what `render` raises, which gets the
    variables.
    """
    if not engine.chat_template:
        raise UsageError(
            f"{engine.path} carries no chat template", todo="use `kanna generate`, or a chat model"
        )
    return render(
        engine.chat_template,
        messages,
        bos=_text(engine, engine.bos),
        eos=_text(engine, engine.eos),
        **variables,
    )


def _text(engine: Engine, token: int | None) -> str:
    return "" if token is None else engine.detokenize([token], special=True)


def open_engine(
    path: str | Path,
    *,
    threads: int | None = None,
    context: int = 4096,
    adapter: AdapterChoice = None,
    mmproj: str | Path | None = None,
    offline: bool = False,
) -> Engine:
    """The engine of an artefact, which stays open until another one is opened."""
    adapters = scales(adapter)
    path = _local(path, offline)
    tower = _local(mmproj, offline) if mmproj is not None else None
    beside = tuple((_state(Path(a)), s) for a, s in adapters.items())
    key = (_state(path), threads, context, tower and _state(tower), *beside)
    if key not in _open:
        close()
        if tower is not None:
            _open[key] = picture_prompt.opened(
                path, tower, adapters, threads=threads, context=context
            )
        else:
            _open[key] = _opened(path, adapters, threads=threads, context=context)
    return _open[key]


def _state(path: Path) -> tuple[str | int, ...]:
    """What a file or folder is, by its place, time and size."""
    try:
        stat = path.stat()
    except OSError:
        return (str(path),)
    return (str(path.resolve()), stat.st_mtime_ns, stat.st_size)


def _opened(
    path: Path, adapters: Mapping[str, float], *, threads: int | None, context: int
) -> Engine:
    runtime = runtimes.of(path)
    if runtime.is_reference and not (here := runtime.available()).ok:
        raise MissingError(
            f"{path} runs in {runtime.title}: {here.remark}",
            expected=f"the extra {runtime.extra}, or a file for another runtime",
            todo=f"`{escaping.shell_line(['kanna', 'convert', path, '-o', 'model.gguf'])}`, "
            f"or {here.how_to_install}",
        )
    if not adapters:
        return runtime.open(path, threads=threads, context=context)
    if not isinstance(runtime, TakesAdapters):
        raise UnsupportedError(
            f"{path} runs in {runtime.title}, which kanna gives no adapters",
            todo="merge the adapter into the original model, and convert that; or use a GGUF",
        )
    return runtime.open_adapted(path, adapters, threads=threads, context=context)


def _local(path: str | Path, offline: bool) -> Path:
    """Where the artefact lies, asked for once: a conversation has many turns."""
    given = str(path)
    if given not in _places or not _places[given].exists():
        _places[given] = locate(path, offline=offline, progress=shown(None))
    return _places[given]


def close() -> None:
    """Free the engine that `generate` and `chat` left open."""
    while _open:
        _open.popitem()[1].close()

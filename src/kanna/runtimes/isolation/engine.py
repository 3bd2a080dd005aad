"""An engine whose model lives in a child process; the same as in this one, but for crashes."""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kanna._util.processes import working_folder
from kanna.errors import CrashError, KannaError, UsageError
from kanna.model import F32
from kanna.runtimes.base import GREEDY, GenerationStats, Sampling
from kanna.runtimes.isolation import process
from kanna.runtimes.isolation.process import Child

if TYPE_CHECKING:
    from typing_extensions import Self


class _Stream:
    """Answers to a request that has several: those that nobody has taken yet, and whether it ended.

    Another request may come in between; the child cannot answer it before the stream has ended, so
    what the stream gives until then is kept.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.waiting: deque[dict[str, Any]] = deque()
        self.begun = self.ended = False

    def take(self, answer: dict[str, Any]) -> dict[str, Any]:
        self.begun, self.ended = True, "end" in answer
        return answer


class IsolatedEngine:
    """An engine in a process of its own; see `Engine`.

    After a crash, or a computation that was interrupted, the next call loads the artefact again.
    """

    context: int
    threads: int
    vocab_size: int
    trained_context: int
    bos: int | None
    eos: int | None
    adds_bos: bool
    chat_template: str | None

    def __init__(self, runtime: str, title: str, path: Path, options: dict[str, Any]) -> None:
        self.path, self.last = path, GenerationStats()
        self._runtime, self._title, self._options = runtime, title, options
        self._child: Child | None = None
        self._stream: _Stream | None = None
        self._closed = False
        self._in_parts: dict[str, Any] | None = None  # whose rows the child gives next
        self._open()

    def _doing(self, what: str) -> str:
        return f"{self._title}, {what} {self.path.name},"

    def _open(self) -> Child:
        """The child with the artefact loaded."""
        if self._closed:
            raise UsageError(f"{self.path} is closed")
        if self._child is not None:
            return self._child
        child = self._child = process.start(self._runtime)
        request = {
            "do": "open",
            "folder": working_folder(),
            "runtime": self._runtime,
            "path": str(self.path),
            "options": self._options,
        }
        try:
            answer = child.ask(request, self._doing("loading"))
        except KannaError as error:
            self._child = None
            if not isinstance(error, CrashError):  # refused: the process itself is well
                process.give_back(child)
            raise
        except BaseException:
            self._drop()
            raise
        for name, value in answer["facts"].items():
            setattr(self, name, value)
        return child

    def _ask(self, request: dict[str, Any], what: str) -> dict[str, Any]:
        """One request and its answer, after whatever is still running."""
        child = self._open()
        self._settle()
        try:
            return child.ask(request, self._doing(what))
        except (CrashError, KeyboardInterrupt):
            self._drop()
            raise

    def _call(self, name: str, **arguments: Any) -> Any:
        return self._ask({"do": name, **arguments}, "reading")["result"]

    def _drop(self) -> None:
        """Without a child: it died, or it computes something nobody waits for."""
        if self._child is not None:
            self._child.kill()
        self._child = None
        if self._stream is not None:
            self._stream.ended = True

    # Streams

    def _begin(self, request: dict[str, Any]) -> _Stream:
        child = self._open()
        self._settle()
        child.streams += 1
        self._stream = stream = _Stream(child.streams)
        child.send(request | {"stream": stream.number})
        return stream

    def _next(self, stream: _Stream, what: str) -> dict[str, Any]:
        """The stream's next answer, the last of which says that it is.

        Raises:
            UsageError: The stream was ended with its process, by another call or by `close`.
        """
        if stream.waiting:
            return stream.waiting.popleft()
        child = self._child
        if stream.ended or child is None:
            raise self._left(what)
        try:
            return stream.take(child.receive(self._doing(what)))
        except (CrashError, KeyboardInterrupt):
            if not stream.begun or not child.alive():
                self._drop()  # a long prompt is being read, or the child is dead
            raise
        except Exception:
            stream.ended = True
            raise

    def _left(self, what: str) -> UsageError:
        """The error for an iterator that is read on when what it reads from is gone."""
        return UsageError(
            f"{self._doing(what)} cannot go on: another call ended what it was reading",
            expected="an iterator that is read to its end while its engine is open and well",
            todo="ask again, and read the answer to its end before the engine is closed or asked "
            "for another text in parts",
        )

    def _settle(self) -> None:
        """Wait for the running stream's end, and keep what it gives."""
        stream = self._stream
        if stream is None:
            return
        while not stream.ended:
            answer = self._next_of_running(stream)
            stream.waiting.append(answer)
        self._stream = None

    def _next_of_running(self, stream: _Stream) -> dict[str, Any]:
        assert self._child is not None
        try:
            return stream.take(self._child.receive(self._doing("answering from")))
        except BaseException:
            self._drop()
            raise

    def _end(self, stream: _Stream) -> None:
        """Stop a stream that nobody listens to any more."""
        if not stream.ended and self._child is not None:
            self._child.send({"do": "cancel", "stream": stream.number})
            while not stream.ended:
                answer = self._next_of_running(stream)
                self._note(answer)
        if self._stream is stream:
            self._stream = None

    def _note(self, answer: dict[str, Any]) -> None:
        if "last" in answer:
            self.last = GenerationStats(**answer["last"])

    # What an engine does

    def tokenize(self, text: str, *, add_bos: bool = False, special: bool = False) -> list[int]:
        """Token ids; see `Engine.tokenize`."""
        return self._call("tokenize", text=text, add_bos=add_bos, special=special)

    def detokenize(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Text of token ids; broken UTF-8 becomes U+FFFD."""
        return self._call("detokenize", ids=[int(i) for i in ids], special=special)

    def eog(self, token: int) -> bool:
        """Whether the token ends a generation."""
        return self._call("eog", token=int(token))

    def memory(self) -> dict[str, int]:
        """Bytes by purpose; see `Engine.memory`."""
        return self._call("memory")

    def logits(self, ids: Sequence[int], *, first: int = 0, copy: bool = True) -> F32:
        """Logits after each of `ids` from position `first`; see `Engine.logits`."""
        request = {"do": "logits", "ids": [int(i) for i in ids], "first": first}
        answer = self._ask(request, "scoring with")
        assert self._child is not None
        rows = self._child.memory.rows(answer["rows"], self.vocab_size)
        return np.array(rows) if copy else rows

    def generate(
        self,
        ids: Sequence[int],
        *,
        max_tokens: int = 128,
        sampling: Sampling = GREEDY,
        stop: Sequence[str] = (),
        ignore_eog: bool = False,
    ) -> Iterator[str]:
        """Continue `ids`, yielding text as it comes; see `Engine.generate`."""
        yield from self._streamed(
            {
                "do": "generate",
                "ids": [int(i) for i in ids],
                "max_tokens": max_tokens,
                "sampling": asdict(sampling),
                "stop": list(stop),
                "ignore_eog": ignore_eog,
            }
        )

    def _streamed(self, request: dict[str, Any]) -> Iterator[str]:
        """The text that a request gives, as it comes; fills `last`."""
        stream = self._begin(request)
        try:
            while "end" not in (answer := self._next(stream, "answering from")):
                self._note(answer)
                yield answer["text"]
            self._note(answer)
        finally:
            self._end(stream)

    def close(self) -> None:
        """Free the model; may be called twice."""
        self._closed = True
        child, self._child = self._child, None
        if child is None:
            return
        if (self._stream is None or self._stream.ended) and child.alive():
            try:
                child.ask({"do": "close"}, self._doing("closing"))
            except CrashError:
                return
            process.give_back(child)
        else:
            child.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class IsolatedLlamaEngine(IsolatedEngine):
    """A `LlamaEngine` in a process of its own."""

    def generate_seeing(
        self,
        prompt: str,
        pictures: Sequence[bytes],
        *,
        max_tokens: int = 128,
        sampling: Sampling = GREEDY,
        stop: Sequence[str] = (),
    ) -> Iterator[str]:
        """Continue a prompt with pictures; see `SeeingEngine.generate_seeing`."""
        yield from self._streamed(
            {
                "do": "generate_seeing",
                "prompt": prompt,
                "pictures": [base64.b64encode(picture).decode() for picture in pictures],
                "max_tokens": max_tokens,
                "sampling": asdict(sampling),
                "stop": list(stop),
            }
        )

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes of one token; may be half a character."""
        return self._call("piece", token=int(token), special=special).encode("latin-1")

    @cached_property
    def eog_ids(self) -> frozenset[int]:
        """Ids of all tokens that end a generation."""
        return frozenset(self._call("eog_ids"))

    @cached_property
    def parameters(self) -> int:
        """Weights of the model, as llama.cpp counts them."""
        return self._call("parameters")

    def embed(self, texts: Sequence[str], *, pooling: str = "model") -> F32:
        """One vector of length 1 per text, f32 [texts, width]; see `LlamaEngine.embed`."""
        request = {"do": "embed", "texts": list(texts), "pooling": pooling}
        answer = self._ask(request, "reading texts with")
        assert self._child is not None
        return np.array(self._child.memory.rows(answer["rows"], answer["columns"]))

    def rank(self, texts: Sequence[Sequence[int]]) -> F32:
        """The score of each text, given as ids; f32 [texts]; see `LlamaEngine.rank`."""
        answer = self._ask({"do": "rank", "texts": [list(t) for t in texts]}, "ranking with")
        assert self._child is not None
        return np.array(self._child.memory.rows(answer["rows"], answer["columns"])).reshape(-1)

    def logits_in_parts(
        self, ids: Sequence[int], *, part: int = 128, spans: Sequence[Sequence[int]] | None = None
    ) -> Iterator[F32]:
        """`logits` of every position, or of `spans` alone; see `LlamaEngine.logits_in_parts`.

        Each array is valid until the next. Raises UsageError when the ids do not fit the context,
        or when another text was begun in between, or the engine's process was replaced.
        """
        texts = [int(i) for i in ids]
        request: dict[str, Any] = {"do": "next_part", "ids": texts, "part": part, "spans": spans}
        self._in_parts = request
        while count := self._ask(request, "scoring with")["rows"]:
            child = self._child
            assert child is not None
            yield child.memory.rows(count, self.vocab_size)
            if self._child is not child or self._in_parts is not request:
                raise self._left("scoring with")
            request["ids"] = None

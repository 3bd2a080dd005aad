"""The routes of an engine that is Python: OpenAI's requests to jobs, tokens to OpenAI's answers."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from kanna.runtimes.llama_engine import StopText
from kanna.serving.engines import tool_schema
from kanna.serving.engines._guide import guide_for
from kanna.serving.engines._host import Refused, answer, serve
from kanna.serving.engines._jobs import Job, Sampling, Token, Worker
from kanna.serving.engines._text import Text
from kanna.serving.engines.base import TOO_LONG, EngineConfig


@dataclass(slots=True, kw_only=True)
class _Piece:
    """Text that may be shown, the tokens that came with it, and in the last one why it ended."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list[Token])
    end: str = ""


class Routes:
    """What `serve` is given: every route of the engine."""

    def __init__(self, config: EngineConfig, worker: Worker, text: Text) -> None:
        self.config, self.worker, self.text = config, worker, text
        self.held: dict[Job, int] = {}  # tokens in the cache of each job under way
        self.program = ""

    def serve(self, program: str) -> None:
        self.program = program
        posts = {
            "/v1/chat/completions": self.chat,
            "/v1/completions": self.complete,
            "/tokenize": self.tokenize,
            "/detokenize": self.detokenize,
            "/apply-template": self.apply_template,
            "/score": self.score,
        }
        serve(self.config, posts, {"/slots": self.slots, "/props": self.props}, program=program)

    async def tokenize(self, body: dict[str, Any], _: web.Request) -> web.StreamResponse:
        return answer(
            {"tokens": self.text.encode(body["content"], frame=bool(body.get("add_special")))}
        )

    async def detokenize(self, body: dict[str, Any], _: web.Request) -> web.StreamResponse:
        self._check(body["tokens"])
        return answer({"content": self.text.decode(body["tokens"])})

    async def apply_template(self, body: dict[str, Any], _: web.Request) -> web.StreamResponse:
        return answer({"prompt": self.text.conversation(body)})

    async def score(self, body: dict[str, Any], _: web.Request) -> web.StreamResponse:
        ids = self._ids(body["prompt"])
        if len(ids) > self.worker.context:
            raise Refused(
                f"{len(ids)} tokens do not fit the context of {self.worker.context}", TOO_LONG
            )
        return answer({"tokens": await self.worker.score(ids, self.text.piece, int(body["top"]))})

    async def slots(self, _: dict[str, Any], __: web.Request) -> web.StreamResponse:
        held = list(self.held.values())[: self.config.slots]
        free = self.config.slots - len(held)
        found = [{"is_processing": True, "n_prompt_tokens": count} for count in held]
        return answer([*found, *({"is_processing": False} for _ in range(free))])

    async def props(self, _: dict[str, Any], __: web.Request) -> web.StreamResponse:
        return answer(
            {"chat_template_caps": {"supports_tools": "tools" in (self.text.template or "")}}
        )

    async def chat(self, body: dict[str, Any], request: web.Request) -> web.StreamResponse:
        top = int(body.get("top_logprobs") or 0) if body.get("logprobs") else None
        most = body.get("max_completion_tokens") or body.get("max_tokens")
        job = self._job(body, self.text.chat(body), most, top)
        return await self._answer(body, request, job, _Chat(self, bool(body.get("tools")), job))

    async def complete(self, body: dict[str, Any], request: web.Request) -> web.StreamResponse:
        top = body.get("logprobs")
        job = self._job(
            body,
            self._ids(body["prompt"]),
            body.get("max_tokens"),
            None if top is None else int(top),
        )
        return await self._answer(body, request, job, _Completion(self, job))

    # Jobs

    def _ids(self, prompt: str | list[int]) -> list[int]:
        ids = self.text.encode(prompt) if isinstance(prompt, str) else prompt
        if not ids:
            raise Refused("the prompt is empty")
        self._check(ids)
        return ids

    def _check(self, ids: list[int]) -> None:
        if ids and not 0 <= min(ids) <= max(ids) < self.worker.vocab_size:
            raise Refused(
                f"invalid tokens: ids {min(ids)} … {max(ids)}, the vocabulary has {self.worker.vocab_size}"
            )

    def _job(self, body: dict[str, Any], ids: list[int], most: Any, top: int | None) -> Job:
        for name in ("grammar", "lora"):
            if body.get(name):
                raise Refused(
                    f"{name!r} works with GGUF files alone; this model runs in {self.program}"
                )
        room = self.worker.context - len(ids)
        if room < 1:
            raise Refused(
                f"the prompt has {len(ids)} tokens, the context {self.worker.context}", TOO_LONG
            )
        names = {
            "frequency": "frequency_penalty",
            "presence": "presence_penalty",
            "repetition": "repeat_penalty",
        }
        names |= {name: name for name in ("temperature", "top_p", "top_k", "min_p", "seed")}
        given = {
            ours: body[theirs] for ours, theirs in names.items() if body.get(theirs) is not None
        }
        bias = {int(k): float(v) for k, v in (body.get("logit_bias") or {}).items()}
        ignore = body.get("ignore_eos") is True
        return Job(
            ids=ids,
            sampling=Sampling(**given, bias=bias),
            max_tokens=min(int(most), room) if most is not None else room,
            eog=frozenset[int]() if ignore else self.text.eog,
            top=top,
            guide=guide_for(self.text, self.worker.vocab_size, body),
        )

    async def pieces(self, job: Job, stop: Any) -> AsyncGenerator[_Piece]:
        """The answer as it comes; ends the job when it is closed."""
        stops = [stop] if isinstance(stop, str) else list(stop or ())
        decoder, held, waiting = self.text.stream(), StopText(stops), list[Token]()
        ended = False
        self.held[job] = len(job.ids)
        self.worker.submit(job)
        try:
            while not ended:
                token = await job.out.get()
                if isinstance(token, Exception):
                    raise token
                ended = bool(token.end)
                self.held[job] += 1
                if token.end == "stop":
                    text = ""
                else:
                    waiting.append(token)
                    text = held.push(decoder.step(token.id))
                if ended and not held.found:
                    text += held.push(decoder.rest())
                if held.found:
                    yield _Piece(text=text, tokens=waiting, end="stop")
                    return
                if ended:
                    text += held.rest()
                if text or ended:
                    yield _Piece(text=text, tokens=waiting, end=token.end)
                    waiting = []
        finally:
            del self.held[job]
            if not ended:
                self.worker.cancel(job)

    # Answers

    async def _answer(
        self, body: dict[str, Any], request: web.Request, job: Job, shape: _Completion
    ) -> web.StreamResponse:
        count = 0
        usage = {"prompt_tokens": len(job.ids)}
        async with aclosing(self.pieces(job, body.get("stop"))) as pieces:
            if not body.get("stream"):
                whole = _Piece()
                async for piece in pieces:
                    count += len(piece.tokens)
                    whole.text += piece.text
                    whole.tokens += piece.tokens
                    whole.end = piece.end
                usage |= {"completion_tokens": count, "total_tokens": len(job.ids) + count}
                return answer(
                    shape.head(shape.whole_object)
                    | {"choices": [shape.whole(whole)], "usage": usage}
                )
            stream = web.StreamResponse(headers={"content-type": "text/event-stream"})
            async for piece in pieces:
                if (
                    not stream.prepared
                ):  # not before there is a token: the gateway measures the time to it
                    await stream.prepare(request)
                    for choice in shape.first():
                        await stream.write(
                            _event(shape.head(shape.part_object) | {"choices": [choice]})
                        )
                count += len(piece.tokens)
                for choice in shape.parts(piece):
                    await stream.write(
                        _event(shape.head(shape.part_object) | {"choices": [choice]})
                    )
        usage |= {"completion_tokens": count, "total_tokens": len(job.ids) + count}
        if (body.get("stream_options") or {}).get("include_usage"):
            await stream.write(
                _event(shape.head(shape.part_object) | {"choices": [], "usage": usage})
            )
        await stream.write(b"data: [DONE]\n\n")
        await stream.write_eof()
        return stream


class _Completion:
    """Choices as /v1/completions has them."""

    whole_object = part_object = "text_completion"
    prefix = "cmpl"

    def __init__(self, routes: Routes, job: Job) -> None:
        self.routes, self.job = routes, job
        self.identity, self.created = f"{self.prefix}-{uuid.uuid4().hex}", int(time.time())

    def head(self, kind: str) -> dict[str, Any]:
        name = self.routes.config.name
        return {"id": self.identity, "object": kind, "created": self.created, "model": name}

    def logprobs(self, tokens: list[Token]) -> dict[str, Any] | None:
        if self.job.top is None:
            return None
        return {
            "content": [
                self._named(t.id, t.logprob) | {"top_logprobs": [self._named(*o) for o in t.top]}
                for t in tokens
            ]
        }

    def _named(self, token: int, value: float) -> dict[str, Any]:
        text = self.routes.text.piece(token)
        return {"id": token, "token": text, "bytes": list(text.encode()), "logprob": value}

    def first(self) -> list[dict[str, Any]]:
        return []

    def whole(self, piece: _Piece) -> dict[str, Any]:
        return {
            "index": 0,
            "text": piece.text,
            "logprobs": self.logprobs(piece.tokens),
            "finish_reason": piece.end,
        }

    def parts(self, piece: _Piece) -> list[dict[str, Any]]:
        return [self.whole(piece) | {"finish_reason": piece.end or None}]


class _Chat(_Completion):
    """Choices as /v1/chat/completions has them.

    With tools, a stream waits until it is known what is being said.
    """

    whole_object, part_object = "chat.completion", "chat.completion.chunk"
    prefix = "chatcmpl"

    def __init__(self, routes: Routes, tools: bool, job: Job) -> None:
        super().__init__(routes, job)
        self.tools, self._said = tools, _Piece()

    def first(self) -> list[dict[str, Any]]:
        return [
            {"index": 0, "delta": {"role": "assistant", "content": None}, "finish_reason": None}
        ]

    def whole(self, piece: _Piece) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": piece.text}
        end = piece.end
        if self.tools:
            calls, content = tool_schema.read(piece.text)
            if calls:
                message |= {"content": content or None, "tool_calls": calls}
                end = "tool_calls"
        found = {"index": 0, "message": message, "finish_reason": end}
        return found if self.job.top is None else found | {"logprobs": self.logprobs(piece.tokens)}

    def parts(self, piece: _Piece) -> list[dict[str, Any]]:
        if self.tools:
            self._said.text += piece.text
            self._said.tokens += piece.tokens
            if not piece.end:
                return []
            piece = _Piece(text=self._said.text, tokens=self._said.tokens, end=piece.end)
        whole = self.whole(piece)
        delta = {
            k: v
            for k, v in whole.pop("message").items()
            if k != "role" and v is not None and v != ""
        }
        for i, call in enumerate(delta.get("tool_calls", ())):
            call["index"] = i
        end = whole.pop("finish_reason")
        found: list[dict[str, Any]] = []
        if delta or not piece.end:
            found.append(whole | {"delta": delta, "finish_reason": None})
        if piece.end:
            found.append({"index": 0, "delta": {}, "finish_reason": end})
        return found


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"

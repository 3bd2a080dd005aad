"""The routes of an engine written in Python: OpenAI's requests to jobs, tokens to its answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from aiohttp import web

from kanna.runtimes.sampling import StopText
from kanna.serving import sse
from kanna.serving.engines._adapter_switch import AdapterSwitch
from kanna.serving.engines._grammar import grammar_of
from kanna.serving.engines._http_server import BadRequestError, json_response, serve
from kanna.serving.engines._jobs import GeneratedToken, GenerationJob
from kanna.serving.engines._openai_responses import ChatFormat, CompletionFormat, TextDelta
from kanna.serving.engines._sampling_fields import sampling_of
from kanna.serving.engines._text_codec import TextCodec
from kanna.serving.engines._worker import JobError, Worker
from kanna.serving.engines.base import CONTEXT_EXCEEDED, EngineConfig


class OpenAiRoutes:
    """Every route of the engine, as methods.

    Args:
        config: What the gateway sent.
        worker: Has the model.
        codec: Of the model's text.
        program: What runs the model, as `kanna ps` shows it.
    """

    def __init__(
        self, config: EngineConfig, worker: Worker, codec: TextCodec, *, program: str
    ) -> None:
        self.config, self.worker, self.codec, self.program = config, worker, codec, program
        self._adapters = AdapterSwitch(config.adapters, program)
        self._cached_tokens: dict[GenerationJob, int] = {}  # of each job under way

    def serve(self) -> None:
        """Answer requests until the process ends."""
        posts = {
            "/v1/chat/completions": self.chat,
            "/v1/completions": self.complete,
            "/tokenize": self.tokenize,
            "/detokenize": self.detokenize,
            "/apply-template": self.apply_template,
            "/score": self.score,
            "/lora-adapters": self._adapters.switch,
        }
        gets = {
            "/slots": self.slots,
            "/props": self.props,
            "/health": self.health,
            "/lora-adapters": self._adapters.listed,
        }
        serve(self.config, posts, gets, program=self.program)

    async def tokenize(self, body: dict[str, Any], _: web.Request) -> web.StreamResponse:
        """Ids of a text."""
        add_special = bool(body.get("add_special"))

        def answer() -> web.Response:
            ids = self.codec.encode(body["content"], add_special=add_special)
            return json_response({"tokens": ids})

        return await asyncio.to_thread(answer)

    async def detokenize(self, body: dict[str, Any], _: web.Request) -> web.StreamResponse:
        """Text of ids."""

        def answer() -> web.Response:
            self._check_ids(body["tokens"])
            return json_response({"content": self.codec.decode(body["tokens"])})

        return await asyncio.to_thread(answer)

    async def apply_template(self, body: dict[str, Any], _: web.Request) -> web.StreamResponse:
        """The prompt that a chat becomes."""
        prompt = await asyncio.to_thread(self.codec.apply_template, body)
        return json_response({"prompt": prompt})

    async def score(self, body: dict[str, Any], _: web.Request) -> web.StreamResponse:
        """Log-probabilities of a prompt."""
        ids = await asyncio.to_thread(self._prompt_ids, body["prompt"])
        if len(ids) > self.worker.context:
            raise BadRequestError(
                f"{len(ids)} tokens do not fit the context of {self.worker.context}",
                CONTEXT_EXCEEDED,
            )
        tokens = await self.worker.score(
            ids, self.codec.token_text, int(body["top"]), self._adapters.of(body)
        )
        return await asyncio.to_thread(json_response, {"tokens": tokens})

    async def slots(self, _: dict[str, Any], __: web.Request) -> web.StreamResponse:
        """Which slots are at work, and the tokens in them, as llama.cpp's server tells it."""
        counts = list(self._cached_tokens.items())[: self.config.slots]
        idle = self.config.slots - len(counts)
        busy = [
            {
                "is_processing": True,
                "n_prompt_tokens": count,
                "params": {"n_discard": job.mark},
                "next_token": [{"n_decoded": count - len(job.ids)}],
            }
            for job, count in counts
        ]
        return json_response([*busy, *({"is_processing": False} for _ in range(idle))])

    async def health(self, _: dict[str, Any], __: web.Request) -> web.StreamResponse:
        """Whether the thread that computes lives and moves."""
        problem = self.worker.problem
        if problem:
            return json_response({"status": "error", "reason": problem}, 503)
        seconds = round(self.worker.seconds_computing, 3)
        return json_response({"status": "ok", "seconds_computing": seconds})

    async def props(self, _: dict[str, Any], __: web.Request) -> web.StreamResponse:
        """Whether the chat template has a place for tools."""
        supports_tools = any("tools" in t for t in self.codec.templates.values())
        return json_response({"chat_template_caps": {"supports_tools": supports_tools}})

    async def chat(self, body: dict[str, Any], request: web.Request) -> web.StreamResponse:
        """Answer a chat."""
        top = int(body.get("top_logprobs") or 0) if body.get("logprobs") else None
        job = await asyncio.to_thread(self._chat_job, body, top)
        tools = bool(body.get("tools"))
        shape = ChatFormat(self.config.name, self.codec, logprobs=top is not None, tools=tools)
        return await self._respond(body, request, job, shape)

    async def complete(self, body: dict[str, Any], request: web.Request) -> web.StreamResponse:
        """Continue a prompt."""
        top = None if body.get("logprobs") is None else int(body["logprobs"])
        job = await asyncio.to_thread(self._completion_job, body, top)
        shape = CompletionFormat(self.config.name, self.codec, logprobs=top is not None)
        return await self._respond(body, request, job, shape)

    # Jobs

    def _chat_job(self, body: dict[str, Any], top: int | None) -> GenerationJob:
        return self._job(body, self.codec.encode_chat(body), top)

    def _completion_job(self, body: dict[str, Any], top: int | None) -> GenerationJob:
        return self._job(body, self._prompt_ids(body["prompt"]), top)

    def _prompt_ids(self, prompt: str | list[int]) -> list[int]:
        ids = self.codec.encode(prompt) if isinstance(prompt, str) else prompt
        if not ids:
            raise BadRequestError("the prompt is empty")
        self._check_ids(ids)
        return ids

    def _check_ids(self, ids: list[int]) -> None:
        vocab_size = self.worker.vocab_size
        if ids and not 0 <= min(ids) <= max(ids) < vocab_size:
            raise BadRequestError(
                f"invalid tokens: ids {min(ids)} … {max(ids)}, the vocabulary has {vocab_size}"
            )

    def _job(self, body: dict[str, Any], ids: list[int], top: int | None) -> GenerationJob:
        sampling = sampling_of(body, self.program)
        free = self.worker.context - len(ids)
        if free < 1:
            raise BadRequestError(
                f"the prompt has {len(ids)} tokens, the context {self.worker.context}",
                CONTEXT_EXCEEDED,
            )
        max_tokens = body.get("max_tokens")
        ignore_eos = body.get("ignore_eos") is True
        return GenerationJob(
            ids=ids,
            sampling=sampling,
            max_tokens=min(max(1, int(max_tokens)), free) if max_tokens is not None else free,
            end_ids=frozenset[int]() if ignore_eos else self.codec.end_ids,
            top=top,
            mark=int(body.get("n_discard") or 0),
            adapters=self._adapters.of(body),
            grammar=grammar_of(self.codec, self.worker.vocab_size, body),
        )

    async def _generate(
        self, job: GenerationJob, stop: Any, *, continues: bool
    ) -> AsyncGenerator[TextDelta]:
        """The answer as it comes; closing the generator ends the job."""
        stop_text = StopText([stop] if isinstance(stop, str) else list(stop or ()))
        decoder, waiting = self.codec.stream(continues=continues), list[GeneratedToken]()
        ended = False
        self._cached_tokens[job] = len(job.ids)
        try:
            self.worker.submit(job)
            while not ended:
                token = await job.output.get()
                if isinstance(token, Exception):
                    raise token
                ended = bool(token.finish_reason)
                self._cached_tokens[job] += 1
                if token.finish_reason == "stop":
                    text = ""
                else:
                    waiting.append(token)
                    text = stop_text.push(decoder.step(token.id))
                if ended and not stop_text.stopped:
                    text += stop_text.push(decoder.flush())
                if stop_text.stopped:
                    yield TextDelta(text=text, tokens=waiting, finish_reason="stop")
                    return
                if ended:
                    text += stop_text.rest()
                if text or ended:
                    yield TextDelta(text=text, tokens=waiting, finish_reason=token.finish_reason)
                    waiting = []
        finally:
            del self._cached_tokens[job]
            if not ended:
                self.worker.cancel(job)

    # Answers

    async def _respond(
        self,
        body: dict[str, Any],
        request: web.Request,
        job: GenerationJob,
        shape: CompletionFormat,
    ) -> web.StreamResponse:
        answer = self._generate(job, body.get("stop"), continues="prompt" in body)
        async with aclosing(answer) as deltas:
            if body.get("stream"):
                usage_wanted = bool((body.get("stream_options") or {}).get("include_usage"))
                return await self._stream(request, deltas, job, shape, usage_wanted)
            whole = TextDelta()
            async for delta in deltas:
                whole.extend(delta)

            def encode() -> web.Response:
                return json_response(shape.response(whole, _usage(job, len(whole.tokens))))

            # With log-probabilities an answer can have megabytes.
            return await asyncio.to_thread(encode)

    async def _stream(
        self,
        request: web.Request,
        deltas: AsyncGenerator[TextDelta],
        job: GenerationJob,
        shape: CompletionFormat,
        usage_wanted: bool,
    ) -> web.StreamResponse:
        count = 0
        stream = web.StreamResponse(headers={"content-type": "text/event-stream"})
        try:
            async for delta in deltas:
                # Not before there is a token: the gateway measures the time to it.
                if not stream.prepared:
                    await stream.prepare(request)
                    for choice in shape.first_choices():
                        await stream.write(sse.encode(shape.chunk([choice])))
                count += len(delta.tokens)
                for choice in shape.delta_choices(delta):
                    await stream.write(sse.encode(shape.chunk([choice])))
        except JobError as error:
            if not stream.prepared:
                raise
            problem = {"message": str(error), "type": "server_error", "code": "engine_failed"}
            await stream.write(sse.encode({"error": problem}))
        if usage_wanted:
            await stream.write(sse.encode(shape.chunk([], usage=_usage(job, count))))
        await stream.write(sse.DONE)
        await stream.write_eof()
        return stream


def _usage(job: GenerationJob, count: int) -> dict[str, int]:
    prompt = len(job.ids)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": count,
        "total_tokens": prompt + count,
    }

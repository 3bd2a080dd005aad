"""A gateway that answers from a script, to drive the web page.

The wire format of the real one, no model.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

REPLIES = {
    "hello": "Hello! A **hand plane** takes thin shavings:\n\n1. set the iron\n2. take a pass\n\n"
    "```python\nfor shaving in plane(wood):\n    print(shaving)\n```\n\nUse `plane()` with care.",
    "evil": '<img src=x onerror="window.owned=1"><script>window.owned=1</script> '
    "[a](javascript:alert(1)) <b>bold</b> "
    "![x](https://example.com/x.png)",
}
METRICS = """\
# HELP kanna_requests_total Requests.
# TYPE kanna_requests_total counter
kanna_requests_total{{model="tiny-Q4_K_M",key="me"}} {n}
kanna_requests_total{{model="tiny-Q8_0",key="me"}} 12
kanna_tokens_total{{model="tiny-Q4_K_M",key="me"}} {tokens}
kanna_errors_total{{model="tiny-Q4_K_M",key="me"}} 1
kanna_queue_depth{{model="tiny-Q4_K_M"}} {queue}
kanna_memory_bytes{{model="tiny-Q4_K_M"}} 241000000
kanna_kv_used_ratio{{model="tiny-Q4_K_M"}} 0.37
kanna_batch_size{{model="tiny-Q4_K_M"}} 3
kanna_engine_restarts_total{{model="tiny-Q4_K_M"}} 0
kanna_ttft_seconds_bucket{{model="tiny-Q4_K_M",le="0.1"}} {n}
kanna_ttft_seconds_bucket{{model="tiny-Q4_K_M",le="0.5"}} {n2}
kanna_ttft_seconds_bucket{{model="tiny-Q4_K_M",le="+Inf"}} {n2}
kanna_inter_token_seconds_bucket{{model="tiny-Q4_K_M",le="0.01"}} {n}
kanna_inter_token_seconds_bucket{{model="tiny-Q4_K_M",le="0.02"}} {n2}
kanna_inter_token_seconds_bucket{{model="tiny-Q4_K_M",le="+Inf"}} {n2}
"""


class Replay:
    """fault: (status, message, retry-after) of the next chat, or None.

    Key: what requests must carry, or "".
    """

    def __init__(self) -> None:
        self.names = ["tiny-Q4_K_M", "tiny-Q8_0"]
        self.fault: tuple[int, str, str] | None = None
        self.key = ""
        self.pause = {"tiny-Q4_K_M": 0.004, "tiny-Q8_0": 0.012}
        self.bodies: list[dict[str, Any]] = []
        self.cancelled = 0
        self.polls = 0
        now = time.time()
        self.keys: list[dict[str, Any]] = [
            {
                "id": "k1",
                "name": "first",
                "scopes": ["admin"],
                "created": now - 9e5,
                "expires": None,
                "revoked": None,
                "tokens_per_day": None,
                "usage": {"requests": 41, "tokens": 10_241},
            },
            {
                "id": "k2",
                "name": "night job <i>",
                "scopes": ["infer"],
                "created": now - 4e5,
                "expires": now + 9e5,
                "revoked": None,
                "tokens_per_day": 200_000,
                "usage": {"requests": 1_204, "tokens": 180_300},
            },
        ]

    def app(self) -> Any:
        from starlette.applications import Starlette
        from starlette.requests import Request
        from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
        from starlette.routing import Route

        from kanna.serving import page

        def refused(request: Request) -> Response | None:
            if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
                return JSONResponse({"error": {"message": "A key is needed."}}, 401)
            return None

        async def models(request: Request) -> Response:
            data = [{"id": n, "object": "model"} for n in self.names]
            return refused(request) or JSONResponse({"object": "list", "data": data})

        async def chat(request: Request) -> Response:
            body = await request.json()
            self.bodies.append(body)
            if self.fault:
                status, message, wait = self.fault
                return JSONResponse(
                    {"error": {"message": message}}, status, {"Retry-After": wait} if wait else None
                )
            return refused(request) or StreamingResponse(
                self._stream(body), media_type="text/event-stream"
            )

        async def metrics(request: Request) -> Response:
            self.polls += 1
            n = 100 + 7 * self.polls
            text = METRICS.format(
                n=n, n2=n + 9, tokens=4000 + 350 * self.polls, queue=self.polls % 3
            )
            return refused(request) or PlainTextResponse(text)

        async def keys(request: Request) -> Response:
            if request.method == "POST":
                body = await request.json()
                made = {
                    "id": f"k{len(self.keys) + 1}",
                    "created": time.time(),
                    "revoked": None,
                    "usage": {},
                    "expires": None,
                    **body,
                }
                self.keys.append(made)
                return JSONResponse({**made, "key": "sk-kanna-3f9a-shown-once"}, 201)
            return refused(request) or JSONResponse({"keys": self.keys})

        async def revoke(request: Request) -> Response:
            next(k for k in self.keys if k["id"] == request.path_params["id"])["revoked"] = (
                time.time()
            )
            return Response(status_code=204)

        return Starlette(
            routes=[
                *page.routes(),
                Route("/v1/models", models),
                Route("/v1/chat/completions", chat, methods=["POST"]),
                Route("/metrics", metrics),
                Route("/admin/keys", keys, methods=["GET", "POST"]),
                Route("/admin/keys/{id}", revoke, methods=["DELETE"]),
            ]
        )

    async def _stream(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        asked = body["messages"][-1]["content"]
        text = REPLIES.get(asked, f"You said: {asked}. ")
        if asked == "long":
            text = "word " * 4000
        pieces = [text[i : i + 4] for i in range(0, len(text), 4)]
        reason = "stop"
        if asked != "long" and len(pieces) > body["max_tokens"]:
            pieces, reason = pieces[: body["max_tokens"]], "length"

        def event(data: dict[str, Any]) -> bytes:
            return f"data: {json.dumps(data)}\n\n".encode()

        try:
            await asyncio.sleep(0.05)
            yield event(
                {"choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]}
            )
            for piece in pieces:
                yield event(
                    {"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]}
                )
                await asyncio.sleep(self.pause[body["model"]])
            if asked == "broken":
                return
            yield event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
            yield event(
                {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": len(pieces)}}
            )
            yield b"data: [DONE]\n\n"
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise


class Running:
    """An application on a free port of the loopback interface, in a thread."""

    def __init__(self, app: Any) -> None:
        import uvicorn

        self.server = uvicorn.Server(
            uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=1)
        )
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        end = time.monotonic() + 10
        while not self.server.started:
            assert time.monotonic() < end, "the server did not start"
            time.sleep(0.01)
        self.address = f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}/"

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(5)

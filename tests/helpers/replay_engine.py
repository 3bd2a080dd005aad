"""An engine that answers at once from a script, in the place of `llama-server`.

For what only a clock can show.

A request says in its field `replay` what it gets: tokens (4), wait (seconds before the head), gap
(seconds between events), size (characters per event), message (a chat's whole message, or delta),
cut (events after which the connection breaks), refusal (what a chat fails with; streamed, at its
end), last_words (of the process, which aborts). A model whose file is named other says something
else, one named slow takes its time, a broken one does not start. `GET /seen` tells of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

MODEL = ""
SEEN: dict[str, Any] = {"begun": 0, "ended": 0, "cancelled": 0, "bodies": []}


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def program(folder: Any) -> str:
    """A program in `folder` that runs this engine."""
    path = Path(folder) / "replay-server"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).resolve()}" "$@"\n')
    path.chmod(0o755)
    return str(path)


async def generate(path: str, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    how = body.get("replay") or {}
    chat = "chat" in path
    tokens, gap = (
        int(how.get("tokens", min(64, body.get("max_tokens") or 4))),
        float(how.get("gap", 0)),
    )
    text = ("y" if "other" in MODEL else "x") * int(how.get("size", 1))
    await asyncio.sleep(float(how.get("wait", 0.03 if "slow" in MODEL else 0)))
    if words := how.get("last_words"):
        print(words, file=sys.stderr, flush=True)
        os.abort()
    usage = {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens}
    base = {"id": "r", "created": 0, "model": "replay"}
    refusal = {"error": {"code": 500, "type": "server_error", "message": how.get("refusal")}}
    if chat and how.get("refusal") and not body.get("stream"):
        answer(writer, json.dumps(refusal).encode(), "500 Internal Server Error")
        return
    if not body.get("stream"):
        await asyncio.sleep(gap * tokens)
        message = how.get("message") or {"role": "assistant", "content": text * tokens}
        content = {"message": message} if chat else {"text": text * tokens}
        whole = base | {
            "object": "x",
            "choices": [{"index": 0, "finish_reason": "stop", **content}],
            "usage": usage,
        }
        answer(writer, json.dumps(whole).encode())
        return
    writer.write(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    )

    def send(data: bytes) -> None:
        writer.write(b"%x\r\n%s\r\n" % (len(data), data))

    if chat:
        send(
            event(
                base | {"choices": [{"index": 0, "delta": {"role": "assistant", "content": None}}]}
            )
        )
    delta = how.get("message") or {"content": text}
    one = event(
        base | {"choices": [{"index": 0, **({"delta": delta} if chat else {"text": text})}]}
    )
    for i in range(tokens):
        if how.get("cut") == i:
            writer.close()
            return
        send(one)
        if gap:
            await writer.drain()
            await asyncio.sleep(gap)
    if chat and how.get("refusal"):
        send(event(refusal))
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return
    end = {"delta": {}} if chat else {"text": ""}
    send(event(base | {"choices": [{"index": 0, "finish_reason": "stop", **end}]}))
    if (body.get("stream_options") or {}).get("include_usage"):
        send(event(base | {"choices": [], "usage": usage}))
    send(b"data: [DONE]\n\n")
    writer.write(b"0\r\n\r\n")
    await writer.drain()


def answer(writer: asyncio.StreamWriter, body: bytes, status: str = "200 OK") -> None:
    writer.write(
        f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n".encode()
        + b"content-length: %d\r\n\r\n" % len(body)
        + body
    )


async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            method, path = head.split(" ", 2)[:2]
            length = next(
                (int(h[15:]) for h in head.split("\r\n") if h.startswith("content-length:")), 0
            )
            body = json.loads(await reader.readexactly(length)) if length else {}
            if f"bearer {os.environ['LLAMA_API_KEY']}".lower() not in head:
                answer(writer, b"{}", "401 Unauthorized")
            elif path == "/seen":
                answer(writer, json.dumps(SEEN).encode())
            elif path == "/tokenize":
                answer(writer, json.dumps({"tokens": list(range(len(body["content"])))}).encode())
            elif path == "/detokenize":
                answer(writer, b'{"content": "x"}')
            elif path == "/apply-template":
                answer(
                    writer,
                    json.dumps(
                        {"prompt": "".join(str(m["content"]) for m in body["messages"])}
                    ).encode(),
                )
            elif path == "/v1/embeddings":
                await asyncio.sleep((body.get("replay") or {}).get("wait", 0))
                answer(writer, b'{"data": [], "usage": {"prompt_tokens": 1}}')
            elif body.get("prompt") == list(range(10, 42)):
                answer(writer, b"{}")  # the gateway measures how fast it is
            elif method == "get":
                answer(writer, b"[]")
            else:
                await watched(path, body, reader, writer)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def watched(
    path: str, body: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Ends the work when the client leaves, as llama-server does."""
    SEEN["begun"] += 1
    SEEN["bodies"] = [*SEEN["bodies"][-9:], body]
    if not body.get("replay"):
        await generate(path, body, writer)
        SEEN["ended"] += 1
        return
    work, gone = (
        asyncio.ensure_future(generate(path, body, writer)),
        asyncio.ensure_future(reader.read(1)),
    )
    await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
    SEEN["ended" if work.done() else "cancelled"] += 1
    work.cancel()
    gone.cancel()
    await asyncio.wait({work, gone})


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("-m", dest="model", default="")
    options, _ = parser.parse_known_args()
    global MODEL  # noqa: PLW0603
    MODEL = Path(options.model).name
    if "broken" in MODEL:
        raise SystemExit("error: it is broken")
    server = await asyncio.start_server(
        handle, "127.0.0.1", options.port, limit=1 << 26, backlog=1024
    )
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
    else:
        uvloop.run(main())

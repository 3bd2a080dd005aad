"""Requests that would stop, slow or confuse a gateway or its engines, by name."""

from __future__ import annotations

from typing import Any

_CHAT, _COMPLETION = "/v1/chat/completions", "/v1/completions"
_HELLO: Any = [{"role": "user", "content": "hello"}]


def _chat(**fields: Any) -> tuple[str, dict[str, Any]]:
    return _CHAT, {"messages": _HELLO, "max_tokens": 4, **fields}


def _completion(**fields: Any) -> tuple[str, dict[str, Any]]:
    return _COMPLETION, {"prompt": "a", "max_tokens": 4, **fields}


def _schema(schema: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return _chat(response_format=form)


def _chain(length: int) -> dict[str, Any]:
    links = {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(length)}
    return {"$defs": links | {f"d{length}": {"type": "string"}}, "$ref": "#/$defs/d0"}


def _tools(count: int) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": f"f{i}"}} for i in range(count)]


REQUESTS: dict[str, tuple[str, dict[str, Any] | bytes]] = {
    "references": _schema(_chain(40)),
    "some references": _schema(_chain(11)),
    "values": _schema({"enum": [f"value {i}" for i in range(20_000)]}),
    "some values": _schema({"enum": [f"value {i}" for i in range(2000)]}),
    "names": _schema({"properties": {f"p{i}": {"type": "string"} for i in range(6000)}}),
    "pattern": _schema({"type": "string", "pattern": "^a{2,1}$"}),
    "repetitions": _schema({"type": "string", "pattern": "^((a{0,99}){0,99}){0,99}$"}),
    "items": _schema({"type": "array", "minItems": 10**9}),
    "length": _schema({"type": "string", "maxLength": 10**9}),
    "brackets": _chat(grammar="root ::= " + "(" * 100_000 + '"a"' + ")" * 100_000),
    "ways": _chat(grammar='root ::= ("a"? "b"? "c"?){0,300}'),
    "left recursion": _chat(grammar='root ::= root "a" | "b"'),
    "empty loop": _chat(grammar='root ::= ""*'),
    "tools": _chat(tools=_tools(10_000)),
    "some tools": _chat(tools=_tools(100), tool_choice="required"),
    "stops": _chat(stop=[str(i) for i in range(10_000)]),
    "choices": _chat(n=10_000),
    "some choices": _chat(n=16),
    "log-probabilities": _chat(logprobs=True, top_logprobs=10**6),
    "top k": _chat(top_k="abc"),
    "biases": _completion(logit_bias={str(i): 1 for i in range(300_000)}),
    "biases elsewhere": _completion(logit_bias={str(10**6 + i): 1 for i in range(10_000)}),
    "ids elsewhere": _completion(prompt=[10**9] * 1000),
    "no answer": _completion(max_tokens=10**18),
    "a long prompt": _completion(prompt="word " * 100_000),
    "prompts": _completion(prompt=["a"] * 10_000),
    "a long text": ("/tokenize", {"content": "a" * 1_000_000}),
    "no JSON": (_CHAT, b"[" * 100_000),
    "lists": (_COMPLETION, b'{"model":"small","prompt":[' + b"[1]," * 500_000 + b"[1]]}"),
}

"""Bodies of requests as clients send them: what engines get of them, and which field is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kanna.serving import requests
from kanna.serving.problems import ApiError

HELLO: Any = [{"role": "user", "content": "hello"}]
BASES: dict[type[Any], dict[str, Any]] = {
    requests.Chat: {"messages": HELLO},
    requests.Completion: {"prompt": "a"},
    requests.Embeddings: {"input": "a"},
    requests.Rerank: {"query": "a", "documents": ["b"]},
    requests.Detokenize: {"tokens": [1]},
}
NAN, INFINITE = float("nan"), float("inf")


def checked(kind: type[Any], change: dict[str, Any]) -> dict[str, Any]:
    return requests.check(kind, {"model": "m"} | BASES[kind] | change)


def history(arguments: Any, **call: Any) -> Any:
    function = {"name": "f", "arguments": arguments}
    made = {"id": "a", "type": "function", "function": function} | call
    return [*HELLO, {"role": "assistant", "content": None, "tool_calls": [made]}]


@pytest.mark.parametrize("kind", [requests.Chat, requests.Completion])
@pytest.mark.parametrize(
    ("field", "sent", "taken"),
    [
        ("top_k", 40.0, 40),
        ("top_k", "40", 40),
        ("top_k", -1, 0),
        ("top_k", 10**20, 2**31 - 1),
        ("temperature", "0.7", 0.7),
        ("temperature", 0, 0),
        ("temperature", None, None),
        ("max_tokens", "16", 16),
        ("max_tokens", -1, None),
        ("max_tokens", -2, None),
        ("max_tokens", 1e300, 2**30 - 1),
        ("max_completion_tokens", 7.0, 7),
        ("n_predict", -1, None),
        ("n", "2", 2),
        ("seed", -1, None),
        ("seed", 2**40 + 5, 5),
        ("seed", "7", 7),
        ("stop", "end", ["end"]),
        ("stop", "", None),
        ("stop", ["", "a"], ["a"]),
        ("logit_bias", {"5": "3"}, {"5": 3.0}),
        ("logit_bias", [[5, -100]], {"5": -100.0}),
        ("logit_bias", {}, None),
        ("stream", "true", True),
        ("stream_options", {"include_usage": 1}, {"include_usage": True}),
        ("repeat_last_n", -1, 1 << 17),
        ("dry_sequence_breakers", [], None),
        ("chat_template_kwargs", {"messages": [], "a": 1}, {"a": 1}),
        ("chat_template_kwargs", {"enable_thinking": "false"}, {"enable_thinking": False}),
        ("user", "someone", None),
        ("metadata", {"a": "b"}, None),
        ("service_tier", "auto", None),
        ("id_slot", 3, None),
        ("n_probs", 10**9, None),
        ("speculative.n_max", 3, None),
        ("something", {"of": None}, {"of": None}),
    ],
)
def test_engines_get_what_was_meant(kind: type[Any], field: str, sent: Any, taken: Any) -> None:
    assert checked(kind, {field: sent}).get(field) == taken
    assert checked(kind, {field: None}).get(field) is None


@pytest.mark.parametrize("kind", [requests.Chat, requests.Completion])
@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("temperature", [-0.1, 10.1, "hot", True, [], {}, NAN, INFINITE, "nan", "1e999"]),
        ("top_p", [-0.1, 1.1, NAN, "x"]),
        ("min_p", [-0.1, 2, NAN]),
        ("top_k", [-2, 1.5, "abc", True, NAN, -INFINITE, [1]]),
        ("frequency_penalty", [2.1, -2.1, NAN]),
        ("presence_penalty", [2.1, "high"]),
        ("repeat_penalty", [0, -1, NAN, 1e9]),
        ("max_tokens", [-3, 0.5, "x", True, NAN]),
        ("n", [0, 17, -1, 1.5]),
        ("best_of", [2, 0]),
        ("seed", [1.5, "x", True, {}]),
        ("stop", [5, [5], [None], {}, ["x"] * 65]),
        ("logit_bias", [5, {"x": 1}, {"-5": 1}, {"5": 101}, {"5": NAN}, {"5": None}, [[1]], [1]]),
        ("stream", [3, "x", []]),
        ("stream_options", [5, {"include_usage": "x"}]),
        ("response_format", ["json", {}, {"type": "xml"}, {"type": "json_object", "schema": 5}]),
        ("mirostat", [3, -1]),
        ("lora", ["x", [{"id": -1, "scale": 1}], [{"id": 0, "scale": NAN}]]),
        ("chat_template_kwargs", [5, {"enable_thinking": "x"}]),
        ("grammar", [5]),
    ],
)
def test_what_is_wrong_is_named(kind: type[Any], field: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ApiError) as refused:
            checked(kind, {field: value})
        problem = refused.value
        assert problem.status == 400 and str(problem.param).split(".")[0] == field, value
        json.loads(problem.body())


@pytest.mark.parametrize(
    ("kind", "change", "field"),
    [
        (requests.Chat, {"max_tokens": 0}, "max_tokens"),
        (requests.Completion, {"max_tokens": 0}, "max_tokens"),
        (requests.Chat, {"top_logprobs": 3}, "top_logprobs"),
        (requests.Chat, {"logprobs": True, "top_logprobs": 10**9}, "top_logprobs"),
        (requests.Chat, {"functions": [{"name": "f"}]}, "functions"),
        (requests.Chat, {"modalities": ["text", "audio"]}, "modalities.1"),
        (requests.Chat, {"audio": {"voice": "a"}}, "audio"),
        (requests.Chat, {"tools": [{"type": "web"}]}, "tools.0.type"),
        (requests.Chat, {"grammar": "x", "response_format": {"type": "json_object"}}, "grammar"),
        (requests.Completion, {"suffix": "x"}, "suffix"),
        (requests.Completion, {"logprobs": 21}, "logprobs"),
        *((requests.Completion, {"prompt": p}, "prompt") for p in (None, [], 5, {}, [True])),
        *((requests.Completion, {"prompt": p}, "prompt") for p in ([1.5], [-1], ["a", 1], [[]])),
        *((requests.Embeddings, {"input": i}, "input") for i in ("", [], [""], [2**40], None)),
        *((requests.Embeddings, {"dimensions": d}, "dimensions") for d in (0, -1, 1.5, "x")),
        *((requests.Rerank, {"documents": d}, "documents") for d in ([], "a", [""], [1], [{}])),
        *((requests.Rerank, {"top_n": n}, "top_n") for n in (0, "x", 2**40)),
        *((requests.Rerank, {"query": q}, "query") for q in ("", None, 3)),
        (requests.Embeddings, {"encoding_format": "x"}, "encoding_format"),
        (requests.Detokenize, {"tokens": ["x"]}, "tokens"),
    ],
)
def test_fields_of_one_route(kind: type[Any], change: dict[str, Any], field: str) -> None:
    with pytest.raises(ApiError) as refused:
        checked(kind, change)
    assert refused.value.param == field


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([], "messages"),
        ([{"role": "user"}], "messages.0"),
        ([{"role": "user", "content": None}], "messages.0"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages.0.content"),
        ([{"role": "user", "content": ["hi"]}], "messages.0.content"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "messages.0.content"),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], "messages.0.content"),
        ([{"role": "user", "content": "a", "name": 5}], "messages.0.name"),
        ([{"role": "king", "content": "a"}], "messages.0.role"),
        (history("{x"), "messages.1.tool_calls.0.function.arguments"),
        (history("[1]"), "messages.1.tool_calls.0.function.arguments"),
        (history(5), "messages.1.tool_calls.0.function.arguments"),
        (history("{}", type="web"), "messages.1.tool_calls.0.type"),
        (history("{}", function={}), "messages.1.tool_calls.0.function.name"),
    ],
)
def test_messages_that_no_engine_reads(messages: Any, field: str) -> None:
    with pytest.raises(ApiError) as refused:
        checked(requests.Chat, {"messages": messages})
    assert refused.value.param == field


@pytest.mark.parametrize(
    ("sent", "taken"),
    [
        ({"role": "user", "content": "a", "name": None}, {"role": "user", "content": "a"}),
        (
            {"role": "user", "content": [{"type": "text", "text": t} for t in "ab"]},
            {"role": "user", "content": "a\nb"},
        ),
        ({"role": "assistant", "content": None}, {"role": "assistant", "content": ""}),
        (
            {"role": "assistant", "content": "a", "tool_calls": [], "refusal": None},
            {"role": "assistant", "content": "a"},
        ),
        (
            {"role": "function", "name": "f", "content": "4"},
            {"role": "tool", "name": "f", "content": "4", "tool_call_id": "call_f"},
        ),
    ],
)
def test_messages_in_one_shape(sent: Any, taken: Any) -> None:
    assert checked(requests.Chat, {"messages": [sent]})["messages"] == [taken]


@pytest.mark.parametrize(
    ("sent", "taken"),
    [("", {}), (None, {}), ({"a": None}, {"a": None}), ('{"a": [1]}', {"a": [1]})],
)
def test_arguments_of_a_past_call(sent: Any, taken: Any) -> None:
    body = checked(requests.Chat, {"messages": history(sent, type=None)})
    [call] = body["messages"][1]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == taken and call["type"] == "function"
    older = {"role": "assistant", "function_call": {"name": "f", "arguments": sent}}
    [call] = checked(requests.Chat, {"messages": [older]})["messages"][0]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == taken


def test_a_completion_is_held_to_a_schema_in_llama_cpps_way() -> None:
    schema = {"type": "integer"}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert checked(requests.Completion, {"response_format": form})["json_schema"] == schema
    beside = {"type": "json_schema", "schema": schema}
    chat = checked(requests.Chat, {"response_format": beside})["response_format"]
    assert chat["json_schema"]["schema"] == schema


@pytest.mark.parametrize(
    "data", [b'{"a": NaN}', b'{"a": -Infinity}', b'{"a": "\\ud800"}', b"\xff", b"[" * 100_000]
)
def test_what_is_no_json(data: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        requests.parse(data)
    json.loads(refused.value.body())
    assert requests.parse(b'{"a": "\\ud83d\\ude42"}') == {"a": "🙂"}

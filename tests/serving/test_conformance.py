"""Other people's clients against each engine: the official one, LangChain's, schemathesis."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from helpers import engine_artefacts, fuzzing
from helpers.gateways import Local, langchain, local

MESSAGES: Any = [{"role": "user", "content": "hello"}]
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["n"],
    "additionalProperties": False,
}


def tool(name: str, values: list[str]) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": {"place": {"enum": values}},
        "required": ["place"],
        "additionalProperties": False,
    }
    return {
        "type": "function",
        "function": {"name": name, "description": "Asks.", "parameters": parameters},
    }


TOOLS: Any = [tool("weather", ["Kobe", "Kyoto"]), tool("trains", ["Nara", "Otsu"])]
PLACES = {
    t["function"]["name"]: set(t["function"]["parameters"]["properties"]["place"]["enum"])
    for t in TOOLS
}


@pytest.fixture(scope="module", params=engine_artefacts.ENGINES)
def gateway(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Local]:
    artefact = engine_artefacts.shared(request.param, tmp_path_factory)
    folder, settings = tmp_path_factory.mktemp("gateway"), {"context": 1024}
    with local(
        artefact, folder, slots=3, replay=False, settings=settings, max_tokens=160
    ) as running:
        yield running


@pytest.fixture(scope="module")
def client(gateway: Local) -> openai.OpenAI:
    return openai.OpenAI(base_url=gateway.url + "/v1", api_key="none", max_retries=0)


def test_the_official_client(client: openai.OpenAI) -> None:
    assert [m.id for m in client.models.list()] == ["m"]
    ask: Any = {"model": "m", "messages": MESSAGES, "max_tokens": 12, "temperature": 0}
    whole = client.chat.completions.create(**ask)
    text = whole.choices[0].message.content
    assert text and whole.model == "m" and whole.usage and whole.usage.completion_tokens <= 12
    *parts, last = client.chat.completions.create(
        **ask, stream=True, stream_options={"include_usage": True}
    )
    assert "".join(c.delta.content or "" for p in parts for c in p.choices) == text
    assert last.usage and last.usage.total_tokens == whole.usage.total_tokens
    assert parts[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    several = client.chat.completions.create(**ask | {"temperature": 1.0}, n=2, seed=1)
    assert [c.index for c in several.choices] == [0, 1]
    named = client.chat.completions.create(**ask, logprobs=True, top_logprobs=2).choices[0].logprobs
    assert named and named.content and len(named.content[0].top_logprobs) == 2
    echoed = client.completions.create(
        model="m", prompt="1, 2", max_tokens=2, echo=True, logprobs=1
    ).choices[0]
    assert echoed.text.startswith("1, 2") and echoed.logprobs and echoed.logprobs.token_logprobs
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(**ask | {"model": "nobody"})
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(**ask | {"temperature": 11})


def called(calls: Any, name: str | None) -> None:
    """One call at least, of tools that are there and as they want it.

    Of `name` alone when one is given.
    """
    assert calls
    for call in calls:
        assert call.id and call.function.name in ({name} if name else set(PLACES))
        assert json.loads(call.function.arguments)["place"] in PLACES[call.function.name]


@pytest.mark.parametrize("name", [None, "weather", "trains"])
def test_tools_that_have_to_be_called(client: openai.OpenAI, name: str | None) -> None:
    choice: Any = {"type": "function", "function": {"name": name}} if name else "required"
    ask: Any = {
        "model": "m",
        "messages": MESSAGES,
        "max_tokens": 120,
        "temperature": 0.5,
        "seed": 1,
        "tools": TOOLS,
        "tool_choice": choice,
    }
    whole = client.chat.completions.create(**ask).choices[0]
    assert whole.finish_reason == "tool_calls"
    called(whole.message.tool_calls, name)
    with client.chat.completions.stream(**ask) as stream:
        final = stream.get_final_completion().choices[0]
    assert final.finish_reason == "tool_calls"
    called(final.message.tool_calls, name)
    again = [
        *MESSAGES,
        whole.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": whole.message.tool_calls[0].id, "content": "sunny"},
    ]
    answer = client.chat.completions.create(
        **ask | {"messages": again, "tool_choice": "none"}
    ).choices[0]
    assert not answer.message.tool_calls and answer.finish_reason in {"stop", "length"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tool_choice": "required"}, "there are no tools"),
        (
            {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "x"}}},
            "'x', which is not among",
        ),
        ({"tools": TOOLS, "tool_choice": "always"}, "tool_choice"),
        ({"tools": [{"type": "function"}]}, "tools.0.function"),
        ({"tools": "all"}, "tools"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"type": 5}},
                }
            },
            "",
        ),
    ],
)
def test_what_cannot_be_held_is_said(gateway: Local, change: dict[str, Any], says: str) -> None:
    status, answer = gateway.post(
        "/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 4} | change
    )
    assert status == 400 and says in answer["error"]["message"], answer


def test_a_prompt_that_is_too_long_has_its_own_code(gateway: Local) -> None:
    """Clients shorten a conversation when they see it."""
    body: Any = {"messages": [{"role": "user", "content": "long " * 1000}]}
    for more in ({}, {"stream": True}):
        status, answer = gateway.post("/v1/chat/completions", body | more)
        assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")


@pytest.mark.parametrize("field", ["grammar", "lora", "embeddings"])
def test_what_only_llama_cpp_can_do_is_said(gateway: Local, field: str) -> None:
    if field == "embeddings":
        status, answer = gateway.post("/v1/embeddings", {"input": "a"})
    else:
        more = (
            {"grammar": 'root ::= "ab"'}
            if field == "grammar"
            else {"lora": [{"id": 0, "scale": 1}]}
        )
        status, answer = gateway.post("/v1/completions", {"prompt": "a", "max_tokens": 4} | more)
    if gateway.pool.find("m").engine.name == "gguf":
        assert status == 200 or field == "lora", answer
        assert field != "grammar" or answer["choices"][0]["text"] == "ab"
    else:
        assert status in {400, 501} and "runs in" in answer["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_answers_that_follow_a_schema(client: openai.OpenAI, stream: bool) -> None:
    form: Any = {
        "type": "json_schema",
        "json_schema": {"name": "x", "schema": SCHEMA, "strict": True},
    }
    ask: Any = {
        "model": "m",
        "messages": MESSAGES,
        "max_tokens": 60,
        "temperature": 0.7,
        "seed": 1,
        "response_format": form,
    }
    if stream:
        text = "".join(
            c.delta.content or ""
            for p in client.chat.completions.create(**ask, stream=True)
            for c in p.choices
        )
    else:
        text = client.chat.completions.create(**ask).choices[0].message.content or ""
    assert 0 <= json.loads(text)["n"] <= 99


@pytest.mark.skipif(
    importlib.util.find_spec("langchain_openai") is None, reason="langchain-openai is not installed"
)
def test_langchain(gateway: Local) -> None:
    from langchain_openai import ChatOpenAI

    options = langchain(gateway.url, ("hello", "hola"))
    longer = ChatOpenAI(**options | {"max_tokens": 120})
    for choice in ("any", "trains"):
        [call, *_] = longer.bind_tools(TOOLS, tool_choice=choice).invoke("hello").tool_calls
        assert call["args"]["place"] in PLACES[call["name"]] and (
            choice == "any" or call["name"] == choice
        )
    for method in ("json_schema", "function_calling"):
        schema = {"title": "answer", "description": "A number.", **SCHEMA}
        number: Any = longer.with_structured_output(schema, method=method).invoke("hello")
        assert 0 <= number["n"] <= 99


ROUTES = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/tokenize", "/detokenize")


def fuzz(gateway: Local, examples: int) -> None:
    """Nothing that is sent breaks an engine.

    It is the same process afterwards, and says the same.
    """
    good = {"prompt": "hola", "max_tokens": 6, "temperature": 0}
    before, pid = gateway.post("/v1/completions", good), gateway.main.pid
    embeds = gateway.pool.find("m").engine.name == "gguf"
    allowed = () if embeds else (501,)
    answered = fuzzing.fuzz(
        fuzzing.described(gateway), {}, lambda p: p in ROUTES, examples, allowed
    )
    assert all(len(statuses) for statuses in answered.values()) and len(answered) == len(ROUTES)
    assert any(200 in statuses for statuses in answered.values())
    assert gateway.inside == 0 and gateway.main.pid == pid
    after = gateway.post("/v1/completions", good)
    assert [a[1]["choices"][0]["text"] for a in (before, after)] == [
        before[1]["choices"][0]["text"]
    ] * 2


def test_schemathesis(gateway: Local) -> None:
    fuzz(gateway, 12)


@pytest.mark.slow
def test_schemathesis_for_longer(gateway: Local) -> None:
    fuzz(gateway, 300)

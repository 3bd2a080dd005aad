"""Schemas and grammars that would stop an engine: refused in time, while honest ones work."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from helpers import engine_artefacts, odd_requests
from helpers.gateways import Local, local, until
from pydantic import BaseModel, Field

from kanna.serving.constraints import ConstraintError, kinds
from kanna.serving.constraints.trial import TrialProcess

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
HELLO: Any = [{"role": "user", "content": "hello"}]


def chain(length: int, keyword: str = "anyOf") -> dict[str, Any]:
    """Definitions each of which names the next one twice."""
    links = {f"d{i}": {keyword: [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(length)}
    return {"$defs": links | {f"d{length}": {"enum": ["a", "b"]}}, "$ref": "#/$defs/d0"}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"x": schema}, "required": ["x"]}
    return schema


def of_pattern(pattern: str) -> dict[str, Any]:
    return {"type": "string", "pattern": pattern}


HOSTILE_SCHEMAS: dict[str, dict[str, Any]] = {
    "unions of references": chain(40),
    "one of references": chain(40, "oneOf"),
    "all of references": chain(40, "allOf"),
    "all of unions": {"allOf": [{"anyOf": [{"const": i}, {"const": -i}]} for i in range(1, 50)]},
    "itself": {"$ref": "#"},
    "a circle": {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"},
    "depth": nested(150),
    "values": {"enum": [f"value {i}" for i in range(20_000)]},
    "parts": {"anyOf": [{"type": "object", "properties": {}}] * 30_000},
    "a long constant": {"const": "x" * 1_000_000},
    "a long name": {"type": "object", "properties": {"x" * 100_000: {"type": "null"}}},
    "least items": {"type": "array", "minItems": 10**9},
    "least items as a float": {"type": "array", "minItems": 1e9},
    "endless items": {"type": "array", "maxItems": 10**9, "items": {"type": "string"}},
    "least length": {"type": "string", "minLength": 10**9},
    "endless length": {"type": "string", "maxLength": 10**12},
    "items that cannot be": {"type": "array", "minItems": 5, "maxItems": 2},
    "length that cannot be": {"type": "string", "minLength": 5, "maxLength": 2},
    "negative items": {"type": "array", "maxItems": -1},
    "infinite items": json.loads('{"type": "array", "minItems": 1e999}'),
    "repetition backwards": of_pattern("^a{2,1}$"),
    "repetition": of_pattern("^a{0,100000}$"),
    "long repetition": of_pattern("^a{0,99999999999999999999}$"),
    "repetitions in each other": of_pattern("^((a{0,100}){0,100}){0,100}$"),
    "repetitions of a class": of_pattern("^([a-z\\d{}\\]]{500}){500}$"),
    "repetitions of letters": of_pattern("^(\\p{L}{900}){900}$"),
    "brackets of a pattern": of_pattern("^" + "(" * 500 + "a" + ")" * 500 + "$"),
    "a long pattern": of_pattern("a" * 10_000),
    "pattern of names": {"patternProperties": {"^a{9,1}$": {"type": "string"}}},
}


@pytest.mark.parametrize("name", HOSTILE_SCHEMAS)
def test_a_schema_that_is_too_large_is_refused_in_no_time(name: str) -> None:
    """Also as the parameters of a tool, and inside another schema."""
    schema = HOSTILE_SCHEMAS[name]
    inner = {"type": "object", "properties": {"a": schema}} if "$ref" not in schema else schema
    tool = {"type": "function", "function": {"name": "f", "parameters": inner}}
    started = time.process_time()
    for param, value in (
        ("json_schema", schema),
        ("response_format", {"type": "json_schema", "json_schema": {"schema": schema}}),
        ("response_format", {"type": "json_object", "schema": schema}),
        ("tools", [tool]),
    ):
        with pytest.raises(ConstraintError, match="allowed|expected|value has both|number|itself"):
            kinds.measure({param: value}, param)
    assert time.process_time() - started < 5


HOSTILE_GRAMMARS = {
    "brackets": "root ::= " + "(" * 100_000 + '"a"' + ")" * 100_000,
    "size": 'root ::= "a"\n' * 100_000,
    "repetition backwards": 'root ::= "a"{2,1}',
    "repetition": 'root ::= "a"{0,100000}',
    "repetitions in each other": 'root ::= ((("a"{0,90}){0,90}){0,90})',
    "repetition of a class": 'root ::= ([^\\]"]{400}){400}',
}


@pytest.mark.parametrize("name", HOSTILE_GRAMMARS)
def test_a_grammar_that_is_too_large_is_refused(name: str) -> None:
    with pytest.raises(ConstraintError, match="allowed|number"):
        kinds.measure({"grammar": HOSTILE_GRAMMARS[name]}, "grammar")


@pytest.mark.parametrize("text", ["[" * 250_000, '"' * 250_000, '"\\' * 120_000, "{" * 250_000])
def test_what_is_left_open_takes_no_square_of_its_length(text: str) -> None:
    started = time.process_time()
    with suppress(ConstraintError):
        kinds.measure({"grammar": f"root ::= {text}"}, "grammar")
    assert time.process_time() - started < 5


class Address(BaseModel):
    street: str = Field(max_length=200)
    code: str = Field(pattern=r"^[0-9]{5}(-[0-9]{4})?$")
    country: str = Field(pattern=r"^[A-Z]{2}$")


class Item(BaseModel):
    sku: str = Field(pattern=r"^[a-f0-9]{8}-[a-f0-9]{4}$")
    count: int = Field(ge=1, le=10_000)
    price: float | None = None
    tags: list[str] = Field(default=[], max_length=20)


class Order(BaseModel):
    id: int
    ship: Address
    bill: Address | None = None
    items: list[Item] = Field(min_length=1, max_length=50)
    notes: dict[str, str] = {}


class Tree(BaseModel):
    name: str
    children: list[Tree] = []


HONEST_SCHEMAS: dict[str, dict[str, Any]] = {
    "order": Order.model_json_schema(),
    "tree": Tree.model_json_schema(),
    "2000 values": {"enum": [f"value number {i}" for i in range(2000)]},
    "deep": nested(60),
    "strict": {
        "type": "object",
        "properties": {f"field_{i}": {"type": ["string", "null"]} for i in range(100)},
        "required": [f"field_{i}" for i in range(100)],
        "additionalProperties": False,
    },
    "union": {"anyOf": [{"type": "object", "properties": {"k": {"const": i}}} for i in range(60)]},
    "names": {"type": "object", "properties": {"pattern": {"type": "string"}, "enum": {}}},
    "data": {"enum": [{"minItems": -5, "pattern": "a{2,1}"}, "^a{2,1}$"]},
    "length": {"type": "string", "maxLength": 65_535},
    "list": {"type": "array", "items": {"type": "integer"}, "maxItems": 1000},
    "time": {"type": "string", "format": "date-time"},
    "free": {"type": "object", "additionalProperties": {"type": "object"}},
}


@pytest.fixture(scope="module", params=engine_artefacts.ENGINES)
def gateway(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Local]:
    artefact = engine_artefacts.shared(request.param, tmp_path_factory)
    with local(artefact, tmp_path_factory.mktemp("gateway"), replay=False) as running:
        yield running


def _form(schema: dict[str, Any]) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}


@pytest.mark.parametrize("name", HONEST_SCHEMAS)
def test_schemas_as_honest_clients_send_them(gateway: Local, name: str) -> None:
    body = {"messages": HELLO, "max_tokens": 2, **_form(HONEST_SCHEMAS[name])}
    status, answer = gateway.post(CHAT, body)
    assert status == 200, answer
    function = {"name": "f", "parameters": HONEST_SCHEMAS[name]}
    tools = [{"type": "function", "function": function}]
    status, answer = gateway.post(CHAT, {"messages": HELLO, "max_tokens": 2, "tools": tools})
    # The model of the test is too small for some, never the limit of schemas.
    assert status == 200 or answer["error"]["code"] != "constraint_too_large", answer


def test_a_schema_of_many_values_holds_its_answer_and_nobody_waits(gateway: Local) -> None:
    """llama.cpp's own grammars take a second a token for so many."""
    values = [f"value number {i}" for i in range(2000)]
    parameters = {"type": "object", "properties": {"v": {"enum": values}}, "required": ["v"]}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    body = {"messages": HELLO, "max_tokens": 60, "temperature": 0}
    answers: list[tuple[int, Any]] = []

    def ask() -> None:
        answers.append(gateway.post(CHAT, body | _form({"enum": values})))
        if gateway.pool.find("m").engine.name != "gguf":  # its small model has no room for them
            return
        answers.append(gateway.post(CHAT, body | {"tools": [tool], "tool_choice": "required"}))

    asking, slowest = threading.Thread(target=ask), 0.0
    asking.start()
    while asking.is_alive():
        started = time.monotonic()
        assert gateway.post(COMPLETION, {"prompt": "a", "max_tokens": 1})[0] == 200
        slowest = max(slowest, time.monotonic() - started)
    asking.join()
    assert slowest < 5
    (status, answer), *forced = answers
    assert status == 200, answer
    choice = answer["choices"][0]
    if choice["finish_reason"] == "stop":
        assert json.loads(choice["message"]["content"]) in values
    else:
        assert choice["message"]["content"].startswith('"value number ')
    for status, answer in forced:
        assert status == 200 or answer["error"]["code"] == "context_length_exceeded", answer


ODD_OPTIONS: list[dict[str, Any]] = [
    {"logit_bias": {str(i): 1 for i in range(300_000)}},
    {"logit_bias": [[10**6 + i, 1] for i in range(100_000)]},
    {"dry_multiplier": 1, "dry_sequence_breakers": ["a"] * 64},
    {"dry_multiplier": 1, "dry_sequence_breakers": ["a" * 10_000]},
    {"stop": [str(i) for i in range(10_000)]},
    {"tools": [{"type": "function", "function": {"name": f"f{i}"}} for i in range(10_000)]},
    {"n": 10_000},
    {"best_of": 10_000},
    {"logprobs": True, "top_logprobs": 10**6},
    {"top_k": -7},
    {"top_k": "many"},
    {"temperature": "hot"},
    {"min_p": -1},
    {"samplers": ["x"] * 1000},
]


@pytest.mark.parametrize("options", ODD_OPTIONS, ids=lambda options: " ".join(options))
def test_options_without_measure_are_refused(gateway: Local, options: dict[str, Any]) -> None:
    started = time.monotonic()
    status, answer = gateway.post(CHAT, {"messages": HELLO, "max_tokens": 2, **options})
    assert status in (400, 413) and answer["error"]["type"] == "invalid_request_error"
    # The first large body waits for the process that reads it, on a machine that has other work.
    assert time.monotonic() - started < 30


def test_odd_fields_together_are_answered_and_stop_nothing(
    gateway: Local, request: pytest.FixtureRequest
) -> None:
    """Requests of two to six odd fields: what each field may be is no promise for all of them."""
    count, seed = (request.config.getoption(f"--odd-{name}") for name in ("requests", "seed"))
    with odd_requests.healthy(gateway.port) as unhealthy:
        wrong, statuses, slowest = odd_requests.send(gateway.port, seed, count)
    print(f"{gateway.pool.find('m').engine.name}: {statuses}, the slowest {slowest:.1f} s")
    assert not wrong, "\n".join(wrong)
    assert statuses[200] and statuses[400], "some are taken and some refused"
    assert unhealthy == [] and gateway.main.restarts == 0
    until(lambda: gateway.inside == 0)
    assert gateway.post(COMPLETION, {"prompt": "a", "max_tokens": 2})[0] == 200


BEGUN: Any = [*HELLO, {"role": "assistant", "content": [{"type": "text", "text": "</s>"}]}]
"""A chat whose answer begins with the token that ends one."""
TOOL: Any = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
TOGETHER: list[tuple[str, dict[str, Any]]] = [
    (COMPLETION, {"prompt": ["a", "b"], "tools": [TOOL], "tool_choice": "required"}),
    (COMPLETION, {"prompt": "a", "grammar": 'root ::= "\\x00"'}),
    (COMPLETION, {"prompt": "a", "grammar": 'root ::= "\\x00"', "stream": True}),
    (CHAT, {"messages": BEGUN, "json_schema": {}}),
    (CHAT, {"messages": BEGUN, "response_format": {"type": "json_object"}}),
    (CHAT, {"messages": BEGUN, "tools": [TOOL], "tool_choice": "required"}),
]


@pytest.mark.parametrize(("path", "body"), TOGETHER, ids=lambda value: " ".join(value)[:60])
def test_fields_that_ended_an_engine_together_end_none(
    gateway: Local, path: str, body: dict[str, Any]
) -> None:
    status, answer = odd_requests.ask(
        gateway.port, path, {"model": "m", "max_tokens": 4, **body}, timeout=60
    )
    assert 200 <= status < 500 and b"server_error" not in answer, answer
    assert gateway.main.restarts == 0 and gateway.main.state == "ready"
    if body.get("messages") is BEGUN and gateway.pool.find("m").engine.name == "gguf":
        assert (status, json.loads(answer)["error"]["param"]) == (400, "messages")
    if "tools" in body and path == COMPLETION:
        assert status == 200, "a completion has no tools, as with OpenAI"


def test_biases_of_tokens_that_are_not_there_cost_nothing(gateway: Local) -> None:
    bias = {str(10**6 + i): 1 for i in range(10_000)}
    options = {"prompt": "a", "max_tokens": 8, "temperature": 0, "ignore_eos": True}
    plain = gateway.post(COMPLETION, options)
    assert (
        gateway.post(COMPLETION, options | {"logit_bias": bias})[1]["choices"]
        == (plain[1]["choices"])
    )


WAYS = (
    'root ::= "a" root "b" | "a" root "c" | "a"',
    'root ::= ("a"? "b"? "c"?){0,300}',
    "\n".join(["root ::= a0", *(f"a{i} ::= a{i + 1} | a{i + 1}" for i in range(40)), 'a40 ::= ""']),
    "\n".join(["root ::= a0", *(f"a{i} ::= a{i + 1} a{i + 1}" for i in range(12)), 'a12 ::= "x"?']),
)
"""Grammars that are small as they are written, and have more ways than there is memory."""


def test_others_are_answered_while_hostile_requests_are_refused(gateway: Local) -> None:
    grammars = WAYS if gateway.pool.find("m").engine.name == "gguf" else ()
    bodies: list[dict[str, Any]] = [
        *(_form(HOSTILE_SCHEMAS[name]) for name in HOSTILE_SCHEMAS if name != "infinite items"),
        *({"grammar": text} for text in (*HOSTILE_GRAMMARS.values(), *grammars)),
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": chain(40)}}]},
    ]
    statuses: list[tuple[int, Any]] = []

    def attack() -> None:
        for body in bodies:
            statuses.append(gateway.post(CHAT, {"messages": HELLO, "max_tokens": 2, **body}))

    pid, slowest = gateway.main.pid, 0.0
    attacker = threading.Thread(target=attack)
    attacker.start()
    while attacker.is_alive():
        started = time.monotonic()
        assert gateway.post(COMPLETION, {"prompt": "a", "max_tokens": 2})[0] == 200
        slowest = max(slowest, time.monotonic() - started)
    attacker.join()
    assert slowest < 5
    assert [answer for status, answer in statuses if status not in (400, 413)] == []
    assert {answer["error"]["type"] for _, answer in statuses} == {"invalid_request_error"}
    assert gateway.main.pid == pid and gateway.main.restarts == 0
    until(lambda: gateway.inside == 0)


@pytest.mark.parametrize("text", ["root ::= root", 'root ::= ""*', "root ::= (", "x ::= root"])
def test_grammars_that_no_parser_takes_are_refused(gateway: Local, text: str) -> None:
    status, _ = gateway.post(CHAT, {"messages": HELLO, "max_tokens": 2, "grammar": text})
    assert status == 400
    assert gateway.post(COMPLETION, {"prompt": "a", "max_tokens": 2})[0] == 200
    assert gateway.main.restarts == 0


def test_a_schema_is_tried_once(
    gateway: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes again costs no trial: its verdict is known."""
    tried: list[str] = []
    attempt = TrialProcess.attempt

    async def counted(trial: TrialProcess, kind: str, text: str) -> str:
        tried.append(text)
        return await attempt(trial, kind, text)

    monkeypatch.setattr(TrialProcess, "attempt", counted)
    schema = {"type": "object", "properties": {tmp_path.name: {"type": "string"}}}
    for _ in range(4):
        body = {"messages": HELLO, "max_tokens": 1, **_form(schema)}
        assert gateway.post(CHAT, body)[0] == 200
    assert tried and len(tried) == len(set(tried)), (
        "llama.cpp's form of the whole request is tried, too"
    )


CALLING = (
    "{% if tools %}<tools>{{ tools | tojson }}</tools>{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}\n<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'
    "\n</tool_call>{% endfor %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""A template that says how calls are written, from which llama.cpp makes a grammar."""
OPTIONAL = {
    "type": "object",
    "properties": {"v": {"type": "string", "pattern": "^(a?b?c?){0,300}$"}},
    "required": ["v"],
}
"""Small as it is written, no work for llguidance, and more ways than llama.cpp's grammars bear."""


def _tools(parameters: dict[str, Any]) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "f", "parameters": parameters}}]}


@pytest.fixture(scope="module")
def calling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF of a model that is shown tools and writes calls."""
    folder = tmp_path_factory.mktemp("calling")
    engine_artefacts.source(folder / "source")
    path = folder / "source" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": CALLING}))
    return engine_artefacts.artefact("gguf", folder / "source", folder / "calling")


@pytest.mark.parametrize(
    "fields",
    [
        _tools(OPTIONAL),
        _tools(OPTIONAL) | {"tool_choice": "required"},
        _form(OPTIONAL),
    ],
    ids=["tools", "tools that are required", "schema"],
)
def test_what_a_chat_asks_for_is_compiled_on_trial_as_its_engine_does(
    calling: Path, tmp_path: Path, fields: dict[str, Any]
) -> None:
    with local(calling, tmp_path, replay=False, settings={"context": 1024}) as running:
        honest = {"type": "object", "properties": {"v": {"enum": ["a", "b"]}}}
        for answered in (_tools(honest), _tools(honest) | {"tool_choice": "required"}):
            status, answer = running.post(CHAT, {"messages": HELLO, "max_tokens": 2, **answered})
            assert status == 200, answer
        status, answer = running.post(CHAT, {"messages": HELLO, "max_tokens": 2, **fields})
        assert (status, answer["error"]["code"]) == (400, "constraint_too_large")
        assert running.post(COMPLETION, {"prompt": "a", "max_tokens": 2})[0] == 200
        assert running.main.restarts == 0

"""Other people's clients against the gateway: LangChain, schemathesis; and hypothesis against what reads requests."""

from __future__ import annotations

import importlib.util
import json
import string
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gateways import Local, local
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kanna.serve import requests
from kanna.serve.problems import ApiError

LENIENT: Any = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}


@pytest.fixture(scope="module")
def real(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    with local(smollm2, tmp_path_factory.mktemp("real"), replay=False) as running:
        yield running


@pytest.fixture(scope="module")
def replay(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    with local(tiny_gguf, tmp_path_factory.mktemp("replay")) as running:
        yield running


@pytest.mark.skipif(importlib.util.find_spec("langchain_openai") is None, reason="langchain-openai is not installed")
def test_langchain(real: Local) -> None:
    from langchain_openai import ChatOpenAI

    options: Any = {"base_url": real.url + "/v1", "api_key": "none", "model": "m", "temperature": 0, "max_tokens": 12}
    model = ChatOpenAI(**options, stream_usage=True)
    whole = model.invoke("Name a color.")
    assert whole.content and whole.usage_metadata and whole.usage_metadata["output_tokens"] <= 12
    parts = list(model.stream("Name a color."))
    assert "".join(str(p.content) for p in parts) == whole.content
    assert any(p.usage_metadata for p in parts)
    batch = model.batch(["Name a color.", "Name a fruit."])
    assert batch[0].content == whole.content and batch[1].content
    name = {"enum": ["red", "blue"]}
    schema = {"title": "Color", "type": "object", "properties": {"name": name}, "required": ["name"],
              "additionalProperties": False}  # fmt: skip
    model = ChatOpenAI(**options | {"max_tokens": 60})
    found: Any = model.with_structured_output(schema, method="json_schema").invoke("Name a color.")
    assert found["name"] in {"red", "blue"}


@pytest.fixture(scope="module")
def described(replay: Local) -> Any:
    """The gateway as schemathesis reads it, with a key that may do everything."""
    schemathesis: Any = pytest.importorskip("schemathesis")
    with urllib.request.urlopen(replay.url + "/openapi.json") as answer:
        schema = schemathesis.openapi.from_dict(json.load(answer))
    schema.config.update(base_url=replay.url)
    return schema


@pytest.fixture(scope="module")
def admin(replay: Local) -> dict[str, str]:
    return {"authorization": f"Bearer {replay.store.create('admin', scopes=['admin'])[1]}"}


def test_schemathesis(replay: Local, described: Any, admin: dict[str, str]) -> None:
    """Every route with generated requests, good and bad: no failure of ours, and every error in OpenAI's shape."""
    answered: dict[str, set[int]] = {}

    def checked(operation: Any) -> None:
        @given(case=operation.as_strategy())
        @settings(max_examples=15, derandomize=True, **LENIENT)
        def check(case: Any) -> None:
            if isinstance(case.body, dict) and "model" in case.body:
                case.body["model"] = "m"
            if case.path_parameters and "name" in case.path_parameters:
                case.path_parameters["name"] = "m"
            response = case.call(headers=admin, timeout=20)
            assert response.status_code < 500, response.text
            if response.status_code >= 400:
                error = response.json()["error"]
                assert isinstance(error["message"], str) and error["type"]
            answered.setdefault(operation.label, set()).add(response.status_code)

        check()

    for result in described.get_all_operations():
        operation = result.ok()
        if not operation.path.endswith("/swap"):  # paths that exist here would be served
            checked(operation)
    assert len(answered) >= 16
    for path in KINDS:
        assert 200 in answered[f"POST {path}"], "what the description allows is answered"
    assert replay.inside == 0


def test_schemathesis_makes_keys_and_revokes_them(replay: Local, described: Any, admin: dict[str, str]) -> None:
    """Stateful: a key that was made can be revoked, once."""
    before = len(replay.store.listed())
    machine: Any = described.include(path_regex="/admin/keys").as_state_machine()

    class Keys(machine):
        def get_call_kwargs(self, case: Any) -> dict[str, Any]:
            return {"headers": admin}

        def validate_response(self, response: Any, case: Any, **_: Any) -> None:
            assert response.status_code < 500, response.text

    Keys.run(settings=settings(max_examples=15, stateful_step_count=5, derandomize=True, **LENIENT))
    listed = replay.store.listed()[before:]
    assert listed and any(k.revoked for k in listed), "some were made, some of them revoked"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(string.ascii_lowercase, max_size=8), x, max_size=4),
    max_leaves=12,
)
FIELDS = sorted({f for k in (requests.Chat, requests.Completion, requests.Embeddings, requests.Tokenize,
                             requests.Detokenize) for f in k.model_fields})  # fmt: skip
KINDS = {
    "/v1/chat/completions": (requests.Chat, {"messages": [{"role": "user", "content": "a"}]}),
    "/v1/completions": (requests.Completion, {"prompt": "a"}),
    "/v1/embeddings": (requests.Embeddings, {"input": "a"}),
    "/tokenize": (requests.Tokenize, {"content": "a"}),
    "/detokenize": (requests.Detokenize, {"tokens": [1]}),
}


@given(
    kind=st.sampled_from(sorted(KINDS)),
    fields=st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=6), JSON, max_size=4),
)
@settings(max_examples=300, deadline=None)
def test_any_fields_are_checked_or_refused_with_a_reason(kind: str, fields: dict[str, Any]) -> None:
    model, good = KINDS[kind]
    try:
        requests.check(model, {"model": "m", **good, **fields})
    except ApiError as problem:
        assert problem.status == 400 and problem.message
        json.loads(problem.body())


@given(kind=st.sampled_from(sorted(KINDS)), fields=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_fields_get_an_answer(replay: Local, kind: str, fields: dict[str, Any]) -> None:
    body = {"model": "m", **KINDS[kind][1], **fields, "stream": False}
    body.pop("stream_options", None)
    status, answer = replay.post(kind, json.dumps(body).encode("utf-8", "surrogatepass"))
    assert status < 500, answer
    assert (status == 200) == ("error" not in answer)
    assert replay.inside == 0


@given(data=st.binary(max_size=200) | st.text(max_size=100).map(lambda t: t.encode("utf-8", "surrogatepass")))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_bytes_get_an_answer(replay: Local, data: bytes) -> None:
    status, answer = replay.post("/v1/chat/completions", data)
    assert status == 400 and answer["error"]["message"]

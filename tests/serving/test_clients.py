"""Other people's clients against the gateway: LangChain, schemathesis.

And hypothesis against what reads requests.
"""

from __future__ import annotations

import importlib.util
import json
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import fuzzing
from helpers.gateways import Local, langchain, local
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kanna.serving import requests
from kanna.serving.problems import ApiError


@pytest.fixture(scope="module")
def real(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    with local(smollm2, tmp_path_factory.mktemp("real"), replay=False) as running:
        yield running


@pytest.fixture(scope="module")
def replay(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    with local(tiny_gguf, tmp_path_factory.mktemp("replay")) as running:
        yield running


@pytest.mark.skipif(
    importlib.util.find_spec("langchain_openai") is None, reason="langchain-openai is not installed"
)
def test_langchain(real: Local) -> None:
    from langchain_openai import ChatOpenAI

    options = langchain(real.url, ("Name a color.", "Name a fruit."))
    name = {"enum": ["red", "blue"]}
    schema = {
        "title": "Color",
        "type": "object",
        "properties": {"name": name},
        "required": ["name"],
        "additionalProperties": False,
    }
    model = ChatOpenAI(**options | {"max_tokens": 60})
    color: Any = model.with_structured_output(schema, method="json_schema").invoke("Name a color.")
    assert color["name"] in {"red", "blue"}


@pytest.fixture(scope="module")
def described(replay: Local) -> Any:
    return fuzzing.described(replay)


@pytest.fixture(scope="module")
def admin(replay: Local) -> dict[str, str]:
    return {"authorization": f"Bearer {replay.store.create('admin', scopes=['admin'])[1]}"}


def test_schemathesis(replay: Local, described: Any, admin: dict[str, str]) -> None:
    """Every route with generated requests, good and bad.

    No failure of ours, and every error in OpenAI's shape.
    """
    # Paths that exist here would be served by a swap.
    answered = fuzzing.fuzz(described, admin, lambda path: not path.endswith("/swap"), 15)
    assert len(answered) >= 16
    for path in KINDS.keys() - {"/v1/rerank"}:  # the model generates text, and ranks none
        assert 200 in answered[f"POST {path}"], "what the description allows is answered"
    assert replay.inside == 0


def test_schemathesis_makes_keys_and_revokes_them(
    replay: Local, described: Any, admin: dict[str, str]
) -> None:
    """Stateful: a key that was made can be revoked, once."""
    before = len(replay.store.list_keys())
    machine: Any = described.include(path_regex="/admin/keys").as_state_machine()

    class Keys(machine):
        def get_call_kwargs(self, case: Any) -> dict[str, Any]:
            return {"headers": admin}

        def validate_response(self, response: Any, case: Any, **_: Any) -> None:
            assert response.status_code < 500, response.text

    Keys.run(
        settings=settings(
            max_examples=15, stateful_step_count=5, derandomize=True, **fuzzing.LENIENT
        )
    )
    listed = replay.store.list_keys()[before:]
    assert listed and any(k.revoked for k in listed), "some were made, some of them revoked"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda x: (
        st.lists(x, max_size=4)
        | st.dictionaries(st.text(string.ascii_lowercase, max_size=8), x, max_size=4)
    ),
    max_leaves=12,
)
FIELDS = sorted(
    {
        f
        for k in (
            requests.Chat,
            requests.Completion,
            requests.Embeddings,
            requests.Rerank,
            requests.Tokenize,
            requests.Detokenize,
        )
        for f in k.model_fields
    }
)
KINDS = {
    "/v1/chat/completions": (requests.Chat, {"messages": [{"role": "user", "content": "a"}]}),
    "/v1/completions": (requests.Completion, {"prompt": "a"}),
    "/v1/embeddings": (requests.Embeddings, {"input": "a"}),
    "/v1/rerank": (requests.Rerank, {"query": "a", "documents": ["b"]}),
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


@given(
    kind=st.sampled_from(sorted(KINDS)),
    fields=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3),
)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_fields_get_an_answer(replay: Local, kind: str, fields: dict[str, Any]) -> None:
    body = {"model": "m", **KINDS[kind][1], **fields, "stream": False}
    body.pop("stream_options", None)
    status, answer = replay.post(kind, json.dumps(body).encode("utf-8", "surrogatepass"))
    assert status < 500, answer
    assert (status == 200) == ("error" not in answer)
    assert replay.inside == 0


@given(
    data=st.binary(max_size=200)
    | st.text(max_size=100).map(lambda t: t.encode("utf-8", "surrogatepass"))
)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_bytes_get_an_answer(replay: Local, data: bytes) -> None:
    status, answer = replay.post("/v1/chat/completions", data)
    assert status == 400 and answer["error"]["message"]

"""What engines read: prompts and inputs, and the bodies of the routes that generate nothing."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from kanna.serving.requests.fields import Request
from kanna.serving.requests.scalars import MAX_INTEGER, Switch, refusal, to_integer

_MAX_INPUTS = 10_000
_MAX_TEXT = 1 << 20
"""Characters of a text whose tokens are asked for."""
_EXPECTED = "a text, a list of texts, token ids, or a list of those"


def to_prompt(value: Any) -> Any:
    """A text, texts, ids or lists of ids; raises PydanticCustomError."""
    if isinstance(value, str):
        return value
    kinds = set(map(type, value)) if isinstance(value, list) else set[type]()
    if not kinds:
        raise refusal(_EXPECTED, value)
    if kinds <= {int, float}:
        return _to_ids_in_range(value)
    if len(value) > _MAX_INPUTS:
        raise refusal(f"a list of at most {_MAX_INPUTS}", len(value))
    if kinds == {list}:
        return [_to_ids_in_range(ids) for ids in value]
    if kinds != {str}:
        raise refusal(_EXPECTED, value)
    return value


def _to_input(value: Any) -> Any:
    """The same, no text of which is empty."""
    if value == "" or (isinstance(value, list) and "" in value):
        raise refusal("a text that is not empty", value)
    return to_prompt(value)


def _to_ids_in_range(value: Any) -> Any:
    ids = to_ids(value)
    if not ids or not 0 <= min(ids) <= max(ids) <= MAX_INTEGER:
        raise refusal("token ids from 0 on", value)
    return ids


def to_ids(value: Any) -> Any:
    """Token ids, `40.0` too; raises PydanticCustomError."""
    if not isinstance(value, list) or not set(map(type, value)) <= {int, float, str}:
        raise refusal("a list of token ids", value)
    # A prompt may have millions: those that are whole already stay.
    return value if set(map(type, value)) <= {int} else [to_integer(item) for item in value]


Ids = Annotated[list[Annotated[int, Field(ge=0, le=MAX_INTEGER)]], Field(min_length=1)]
Prompt = Annotated[
    str
    | Ids
    | Annotated[list[str], Field(min_length=1)]
    | Annotated[list[Ids], Field(min_length=1)],
    BeforeValidator(to_prompt),
]
"""A text, texts, token ids or lists of ids."""


def _to_optional_integer(value: Any) -> Any:
    return None if value is None else to_integer(value)


def _to_documents(value: Any) -> Any:
    """Texts, or objects with a text each, as several clients send them."""
    if not isinstance(value, list) or not value or len(value) > _MAX_INPUTS:
        raise refusal(f"a list of 1 to {_MAX_INPUTS} texts", value)
    texts = [item.get("text") if isinstance(item, dict) else item for item in value]
    if not all(isinstance(text, str) and text for text in texts):
        raise refusal("texts that are not empty", value)
    return texts


Dimensions = Annotated[
    Annotated[int, Field(ge=1, le=MAX_INTEGER)] | None, BeforeValidator(_to_optional_integer)
]


class Embeddings(Request):
    """The body of /v1/embeddings; vectors have the model's size, or `dimensions` numbers of it.

    `prompt_name` is the model's prompt that goes before each text, by its name; `input_type` says
    it as other services do, `query` or `document`.
    """

    input: Annotated[Prompt, BeforeValidator(_to_input)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Dimensions = None
    prompt_name: Annotated[str, Field(max_length=255)] | None = None
    input_type: Annotated[str, Field(max_length=255)] | None = None
    user: str | None = None


class Rerank(Request):
    """The body of /v1/rerank: texts, by how well they answer a question."""

    query: Annotated[str, Field(min_length=1)]
    documents: Annotated[list[str], BeforeValidator(_to_documents)]
    top_n: Dimensions = None
    return_documents: Switch = None


class Tokenize(Request):
    """The body of /tokenize."""

    content: Annotated[str, Field(max_length=_MAX_TEXT)]
    add_special: Switch = None
    parse_special: Switch = None
    with_pieces: Switch = None


class Detokenize(Request):
    """The body of /detokenize."""

    tokens: Annotated[
        list[Annotated[int, Field(ge=-MAX_INTEGER, le=MAX_INTEGER)]], BeforeValidator(to_ids)
    ]

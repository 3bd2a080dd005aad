"""Numbers, switches and lists as clients send them."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

MAX_INTEGER = 2**31 - 1
"""The largest whole number that every engine takes."""
_MAX_DIGITS = 40
_MAX_WINDOW = 1 << 17
_MAX_BIASES = 10_000
_MAX_BREAKERS, _MAX_BREAKER = 16, 64
"""llama.cpp looks for each of them in every token of the vocabulary, before an answer begins."""


def show(value: Any) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def refusal(expected: str, value: Any) -> PydanticCustomError:
    """The error of a value that is not what was expected."""
    return wrong(f"{expected} was expected, not {show(value)}")


def wrong(text: str, field: str = "") -> PydanticCustomError:
    """An error whose text says all of it.

    Args:
        text: For the client.
        field: The one that is wrong, where a check of several finds it.
    """
    # The text goes in as a value: it may hold braces.
    return PydanticCustomError("value", "{text}", {"text": text, "field": field})


def to_number(value: Any) -> float | None:
    """A finite number; raises PydanticCustomError."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise refusal("a number", value)
    try:
        number = float(value) if not isinstance(value, str) else _parse(value)
    except (ValueError, OverflowError):
        raise refusal("a number", value) from None
    if not math.isfinite(number):
        raise refusal("a finite number", value)
    return number


def to_integer(value: Any) -> int | None:
    """A whole number, `40.0` and `"40"` too; raises PydanticCustomError."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    try:
        number = to_number(value)
    except PydanticCustomError:
        raise refusal("a whole number", value) from None
    assert number is not None
    if isinstance(value, str) and value.strip().lstrip("+-").isdecimal():
        return int(value)  # a float does not hold every seed
    if not number.is_integer():
        raise refusal("a whole number", value)
    return int(number)


def _parse(text: str) -> float:
    if len(text) > _MAX_DIGITS or "_" in text:
        raise ValueError(text)
    return float(text)


def to_switch(value: Any) -> bool | None:
    """A truth value, `"true"` and 1 too; raises PydanticCustomError."""
    known = {"true": True, "false": False, "1": True, "0": False}
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float | str):
        text = value.strip().lower() if isinstance(value, str) else f"{value:g}"
        if text in known:
            return known[text]
    raise refusal("true or false", value)


def to_top_k(value: Any) -> int | None:
    """Candidates to choose among; 0, and -1 as vLLM has it, take all."""
    count = to_integer(value)
    return count if count is None else 0 if count == -1 else min(count, MAX_INTEGER)


def to_window(value: Any) -> int | None:
    """How many of the last tokens count; -1 is all of them. llama.cpp takes memory for each."""
    count = to_integer(value)
    return count if count is None else _MAX_WINDOW if count == -1 else min(count, _MAX_WINDOW)


def to_token_limit(value: Any) -> int | None:
    """New tokens at most; -1 and -2, which llama-server and LM Studio know, are no limit."""
    count = to_integer(value)
    return None if count in {None, -1, -2} else min(int(count or 0), MAX_INTEGER // 2)


def to_seed(value: Any) -> int | None:
    """A seed that every engine holds; -1 is chance, as for llama.cpp."""
    seed = to_integer(value)
    return None if seed in {None, -1} else int(seed or 0) % (MAX_INTEGER + 1)


def to_stop(value: Any) -> list[str] | None:
    """Texts that end an answer; empty ones are left out."""
    texts = [value] if isinstance(value, str) else value
    if texts is None:
        return None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise refusal("a text or a list of texts", value)
    return [text for text in texts if text] or None


def to_logit_bias(value: Any) -> dict[str, float] | None:
    """What is added to the logits of tokens, by id; llama.cpp's list of pairs is taken too."""
    if isinstance(value, list | dict) and len(value) > _MAX_BIASES:
        raise wrong(f"{len(value)} biases, at most {_MAX_BIASES} are allowed")
    if isinstance(value, list):
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
            raise refusal("an object of numbers by token id", value)
        pairs = [(pair[0], pair[1]) for pair in value]
    elif isinstance(value, dict):
        pairs = list(value.items())
    elif value is None:
        return None
    else:
        raise refusal("an object of numbers by token id", value)
    biases: dict[str, float] = {}
    for token, bias in pairs:
        try:
            number, identity = to_number(bias), to_integer(token)
        except PydanticCustomError:
            number = identity = None
        if number is None or identity is None or not 0 <= identity <= MAX_INTEGER:
            raise refusal("not understood: a number by token id", {token: bias})
        if not -100 <= number <= 100:
            raise refusal("a bias from -100 to 100", bias)
        biases[str(identity)] = number
    return biases or None


Number = Annotated[float, BeforeValidator(to_number)]
Integer = Annotated[int, BeforeValidator(to_integer)]
Count = Annotated[int, BeforeValidator(to_integer), Field(ge=0, le=MAX_INTEGER)]
Switch = Annotated[bool | None, BeforeValidator(to_switch)]
TopK = Annotated[Annotated[int, Field(ge=0)] | None, BeforeValidator(to_top_k)]
Window = Annotated[Annotated[int, Field(ge=0)] | None, BeforeValidator(to_window)]
TokenLimit = Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(to_token_limit)]
TokenLimitOrZero = Annotated[Annotated[int, Field(ge=0)] | None, BeforeValidator(to_token_limit)]
Seed = Annotated[int | None, BeforeValidator(to_seed)]
Stop = Annotated[
    Annotated[list[Annotated[str, Field(max_length=10_000)]], Field(max_length=64)] | None,
    BeforeValidator(to_stop),
]
Breakers = Annotated[
    Annotated[list[Annotated[str, Field(max_length=_MAX_BREAKER)]], Field(max_length=_MAX_BREAKERS)]
    | None,
    BeforeValidator(to_stop),
]
LogitBias = Annotated[
    Annotated[dict[str, float], Field(max_length=_MAX_BIASES)] | None,
    BeforeValidator(to_logit_bias),
]

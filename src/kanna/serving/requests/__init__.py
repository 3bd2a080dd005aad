"""What a client may send, checked before any engine sees it.

Every field of OpenAI's that changes an answer has a type here, and so has every option of
llama.cpp's that a request may set. `check` coerces what clients commonly send (`40.0` for a whole
number, `"0.7"` for a number, null for the default), and refuses the rest naming the field. What is
checked goes to the engine in one shape: the number of new tokens is `max_tokens`, the content of a
message is one text, the arguments of a past tool call are the JSON of an object, and defaults are
left out. Fields that nobody knows are ignored.
"""

from __future__ import annotations

from kanna.serving.requests.check import check, encode, parse
from kanna.serving.requests.generation import (
    TOKEN_LIMITS,
    Chat,
    Completion,
    GenerationParameters,
)
from kanna.serving.requests.texts import Detokenize, Embeddings, Rerank, Tokenize
from kanna.serving.requests.tools import normalize_tool_choice

__all__ = [
    "TOKEN_LIMITS",
    "Chat",
    "Completion",
    "Detokenize",
    "Embeddings",
    "GenerationParameters",
    "Rerank",
    "Tokenize",
    "check",
    "encode",
    "normalize_tool_choice",
    "parse",
]

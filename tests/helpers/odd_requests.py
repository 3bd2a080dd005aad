"""Requests out of several odd fields at once, each by itself of a type that it may have."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

NUMBERS: list[Any] = [
    *(0, -1, 1, 2, 3, 7, 0.5, -0.5, 1e-9, -1e-9, 1e-320, 5e-324, 1e308, -1e308, 1e999, -1e999),
    *(float("nan"), 2**31 - 1, 2**31, -(2**31), 2**32, 2**53 + 1, 2**63 - 1, 2**63, -(2**63)),
    *(2**64, 10**30, 1.0, 2.5, 100, 1000, 100_000, True, None, "1", ""),
]
TEXTS: list[Any] = ["", "a", "\0", "\ud800", "é" * 300, "</s>", "<|im_end|>", "\u202e", "{", "\n"]
SCHEMAS: list[Any] = [
    {},
    True,
    {"type": "object"},
    {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    {"type": "object", "properties": {"a": False}, "required": ["a"]},
    {"enum": [1, "1", None, True, 1.0]},
    {"type": ["string", "null"], "maxLength": 3, "pattern": "^a*$"},
    {"type": "integer", "minimum": 5, "maximum": -5},
    {"type": "number", "multipleOf": 0},
    {"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}},
    {"anyOf": []},
    {"const": {"a": [{}]}},
    {"type": "string", "format": "uuid", "minLength": 40},
    {"not": {}},
]
GRAMMARS = ['root ::= "a"', "root ::= [a-z]{0,3}", "root ::= ", 'root ::= "\\x00"', 'x ::= "a"', ""]
_NAMES = ["f", "", "a b", "é", "f" * 65, "root"]
MOST_TOKENS = ("max_tokens", "max_completion_tokens", "n_predict", "max_new_tokens", "num_predict")
SAMPLING = (
    *("temperature", "top_p", "top_k", "min_p", "typical_p", "top_n_sigma", "seed", "n", "best_of"),
    *("frequency_penalty", "presence_penalty", "repeat_penalty", "repeat_last_n", "min_keep"),
    *("xtc_probability", "xtc_threshold", "dynatemp_range", "dynatemp_exponent", "mirostat"),
    *("dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n", "mirostat_tau"),
    *("mirostat_eta", "adaptive_target", "adaptive_decay", "top_logprobs", "logprobs", "n_probs"),
    *("reasoning_budget_tokens", "id_slot", "t_max_predict_ms", "n_keep", "n_discard", "n_indent"),
    *MOST_TOKENS,
)
FRACTIONS = (
    *("temperature", "top_p", "min_p", "typical_p", "top_n_sigma", "frequency_penalty"),
    *("presence_penalty", "repeat_penalty", "xtc_probability", "xtc_threshold", "dynatemp_range"),
    *("dynatemp_exponent", "dry_multiplier", "dry_base", "mirostat_tau", "mirostat_eta"),
    *("adaptive_target", "adaptive_decay"),
)
SWITCHES = (
    *("stream", "ignore_eos", "cache_prompt", "timings_per_token", "echo", "logprobs", "store"),
    *("parallel_tool_calls", "return_tokens", "post_sampling_probs", "add_generation_prompt"),
)
GENERATING = ("/v1/chat/completions", "/v1/completions")
OTHERS = ("/v1/embeddings", "/v1/rerank", "/tokenize", "/detokenize", "/v1/responses", "/score")


class OddRequests:
    """Requests by chance, the same for the same seed."""

    def __init__(self, seed: object) -> None:
        self._choice = random.Random(str(seed))

    def next(self) -> tuple[str, dict[str, Any]]:
        """A route and a body of two to six odd fields."""
        choice = self._choice
        if choice.random() < 0.3:
            path = choice.choice(OTHERS)
            body = self._other(path)
        else:
            path = choice.choice(GENERATING)
            body = {"max_tokens": choice.choice([1, 2, 3, 4])}
            body |= (
                {"prompt": choice.choice(["a", *TEXTS, [1, 2], [[1], [2]], ["a", ""], [-1]])}
                if path == "/v1/completions"
                else {"messages": self._messages()}
            )
        for _ in range(choice.randint(2, 6)):
            body |= self._field()
        return path, {"model": "m", **body}

    def _number(self) -> Any:
        return self._choice.choice(NUMBERS[:9] if self._choice.random() < 0.75 else NUMBERS)

    def _sampling(self) -> dict[str, Any]:
        name = self._choice.choice(SAMPLING)
        if self._choice.random() < 0.7:  # at the edge of what it may be, and past the checks
            edges = [0.0, 1e-9, 0.5, 1.0] if name in FRACTIONS else [0, 1, 2, 4, 16]
            return {name: self._choice.choice(edges)}
        return {name: self._choice.choice(NUMBERS)}

    def _text(self) -> Any:
        return self._choice.choice(TEXTS)

    def _messages(self) -> list[Any]:
        choice = self._choice
        roles = ["user", "system", "assistant", "tool", "developer", "user"]
        contents = [*TEXTS, None, [], [{"type": "text", "text": "a"}], "hello", "hello"]
        made: list[Any] = []
        for _ in range(choice.choice([1, 1, 1, 2, 3])):
            message = {"role": choice.choice(roles), "content": choice.choice(contents)}
            if choice.random() < 0.2:
                call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{"}}
                message |= choice.choice([{"tool_calls": [call]}, {"tool_call_id": "c"}])
            made.append(message)
        return made

    def _tools(self) -> list[Any]:
        function = {"name": self._choice.choice(_NAMES), "parameters": self._choice.choice(SCHEMAS)}
        return [{"type": "function", "function": function}] * self._choice.choice([0, 1, 1, 2])

    def _field(self) -> dict[str, Any]:
        choice = self._choice
        kinds = {
            "sampling": self._sampling,
            "switch": lambda: {choice.choice(SWITCHES): choice.choice([True, False, None, 1])},
            "logit_bias": lambda: {
                "logit_bias": choice.choice(
                    [
                        {str(self._number()): self._number() for _ in range(3)},
                        {str(token): 100 for token in range(320)},
                        {str(token): -100 for token in range(320)},
                        [[1, self._number()], [self._number(), False]],
                    ]
                )
            },
            "stop": lambda: {"stop": choice.choice([self._text(), [self._text()] * 3, [], None])},
            "tools": lambda: {
                "tools": self._tools(),
                "tool_choice": choice.choice(
                    ["auto", "none", "required", {"type": "function", "function": {"name": "f"}}]
                ),
            },
            "form": lambda: {
                "response_format": choice.choice(
                    [
                        {"type": "text"},
                        {"type": "json_object"},
                        {"type": "json_object", "schema": choice.choice(SCHEMAS)},
                        {"type": "json_schema", "json_schema": {"schema": choice.choice(SCHEMAS)}},
                    ]
                )
            },
            "grammar": lambda: choice.choice(
                [{"grammar": choice.choice(GRAMMARS)}, {"json_schema": choice.choice(SCHEMAS)}]
            ),
            "stream": lambda: {
                "stream": True,
                "stream_options": choice.choice([None, {}, {"include_usage": True}]),
            },
            "samplers": lambda: {
                "samplers": choice.choice([[], ["top_k"], ["x"], ["dry", "xtc", "temperature"]])
            },
            "breakers": lambda: {"dry_multiplier": 1, "dry_sequence_breakers": [self._text()] * 2},
            "lora": lambda: {"lora": [{"id": self._number(), "scale": self._number()}]},
            "template": lambda: {
                "chat_template_kwargs": {"enable_thinking": self._number(), "messages": []}
            },
            "user": lambda: {"user": self._text(), "metadata": {"a": self._number()}},
        }
        weights = [6 if name == "sampling" else 1 for name in kinds]
        return kinds[choice.choices([*kinds], weights)[0]]()

    def _other(self, path: str) -> dict[str, Any]:
        choice = self._choice
        texts = [*TEXTS, ["a", *TEXTS[:3]], [1, 2, 3], [[1], [2]], [], [self._number()]]
        return {
            "/v1/embeddings": lambda: {
                "input": choice.choice(texts),
                "encoding_format": choice.choice(["float", "base64", "x"]),
                "dimensions": self._number(),
            },
            "/v1/rerank": lambda: {
                "query": self._text(),
                "documents": choice.choice(texts),
                "top_n": self._number(),
            },
            "/tokenize": lambda: {
                "content": choice.choice(texts),
                "add_special": choice.choice([True, False, None]),
                "with_pieces": choice.choice([True, False, None]),
            },
            "/detokenize": lambda: {"tokens": choice.choice([[1, 2], [self._number()], [], "a"])},
            "/v1/responses": lambda: {"input": choice.choice(texts)},
            "/score": lambda: {"prompt": choice.choice(texts), "top": self._number()},
        }[path]()


def ask(port: int, path: str, body: dict[str, Any], timeout: float) -> tuple[int, bytes]:
    """The status and the whole of an answer, streamed or not."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)) as connection:
        data = json.dumps(body).encode()
        connection.request("POST", path, data, {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()


@contextmanager
def healthy(port: int) -> Iterator[list[object]]:
    """Within the block, `/health` is asked again and again; what was no 200 is listed."""
    wrong: list[object] = []
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.1):
            try:
                with closing(
                    http.client.HTTPConnection("127.0.0.1", port, timeout=30)
                ) as connection:
                    connection.request("GET", "/health")
                    if (status := connection.getresponse().status) != 200:
                        wrong.append(status)
            except OSError as error:
                wrong.append(error)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield wrong
    finally:
        ended.set()
        looking.join()


def send(port: int, seed: object, count: int) -> tuple[list[str], dict[int, int], float]:
    """Send requests one after another; each may take a minute.

    Returns:
        Those that were answered neither with 2xx nor with 4xx, or whose stream ended in a failure
        of ours; how often each status came; the seconds of the slowest answer.
    """
    requests, wrong, slowest = OddRequests(seed), list[str](), 0.0
    statuses: dict[int, int] = {}
    for number in range(count):
        path, body = requests.next()
        started = time.monotonic()
        try:
            status, answer = ask(port, path, body, 60)
        except (OSError, http.client.HTTPException) as error:
            status, answer = 0, repr(error).encode()
        slowest = max(slowest, time.monotonic() - started)
        statuses[status] = statuses.get(status, 0) + 1
        failed_later = b'data: {"error"' in answer and b'"server_error"' in answer
        if not 200 <= status < 500 or failed_later:
            wrong.append(f"{number}: {path} {json.dumps(body)[:600]} {status} {answer[:300]!r}")
    return wrong, statuses, slowest

"""Several choices and prompts in one request, and log-probabilities of prompts.

The latter are compared with llama.cpp in process.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from helpers.gateways import Local, local

from kanna.runtimes.llamacpp import RUNTIME

TEXT = "The capital of France is Paris, and the capital of Japan is"


@pytest.fixture(scope="module")
def gateway(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    with local(smollm2, tmp_path_factory.mktemp("gateway"), replay=False) as running:
        yield running


@pytest.fixture(scope="module")
def client(gateway: Local) -> openai.OpenAI:
    return openai.OpenAI(base_url=gateway.url + "/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def logits(smollm2: Path) -> tuple[list[int], Any]:
    """Ids of TEXT and the log-probabilities after each, f64 [tokens, vocab_size]."""
    with RUNTIME.open(smollm2, context=256, threads=1) as engine:
        ids = engine.tokenize(TEXT, add_bos=True, special=True)
        rows = engine.logits(ids).astype(np.float64)
    return ids, rows - rows.max(1, keepdims=True) - np.log(
        np.exp(rows - rows.max(1, keepdims=True)).sum(1)
    )[:, None]


def test_choices_differ_and_their_seed_repeats_them(client: openai.OpenAI) -> None:
    ask: Any = {
        "model": "m",
        "messages": [{"role": "user", "content": "Name a color."}],
        "max_tokens": 6,
        "n": 3,
        "temperature": 1.5,
        "seed": 5,
    }
    first = client.chat.completions.create(**ask)
    assert [c.index for c in first.choices] == [0, 1, 2]
    assert len({c.message.content for c in first.choices}) > 1
    again = client.chat.completions.create(**ask)
    assert [c.message.content for c in again.choices] == [c.message.content for c in first.choices]
    one = client.chat.completions.create(**ask | {"n": 1})
    assert first.usage and one.usage and first.usage.prompt_tokens == one.usage.prompt_tokens
    assert first.usage.completion_tokens == sum(min(6, 6) for _ in first.choices)


def test_prompts_are_answered_in_their_order(client: openai.OpenAI) -> None:
    ask: Any = {"model": "m", "max_tokens": 4, "temperature": 0}
    prompts = ["1, 2, 3,", "a, b, c,", [33, 28, 216], TEXT]
    single = [client.completions.create(prompt=p, **ask) for p in prompts]
    for given in ([p for p in prompts if isinstance(p, str)], [[33, 28, 216]]):
        many = client.completions.create(prompt=given, n=2, **ask)
        wanted = [s for s, p in zip(single, prompts, strict=True) if p in given]
        assert [c.text for c in many.choices] == [
            s.choices[0].text for s in wanted for _ in range(2)
        ]
        assert [c.index for c in many.choices] == list(range(2 * len(given)))
        assert many.usage and many.usage.prompt_tokens == sum(
            s.usage.prompt_tokens for s in wanted if s.usage
        )
        assert many.usage.completion_tokens == 2 * sum(
            s.usage.completion_tokens for s in wanted if s.usage
        )


def test_a_stream_of_several_choices(client: openai.OpenAI) -> None:
    ask: Any = {
        "model": "m",
        "prompt": ["1, 2, 3,", "a, b, c,"],
        "max_tokens": 4,
        "temperature": 0,
        "logprobs": 1,
    }
    whole = client.completions.create(**ask)
    texts, tokens, ids, usages = ["", ""], list[list[str]]([[], []]), set[str](), list[Any]()
    for chunk in client.completions.create(
        **ask, stream=True, stream_options={"include_usage": True}
    ):
        ids.add(chunk.id)
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            if choice.logprobs:
                assert choice.logprobs.text_offset is not None
                tokens[choice.index] += choice.logprobs.tokens or []
        usages.append(chunk.usage)
    assert texts == [c.text for c in whole.choices]
    assert tokens == [c.logprobs.tokens for c in whole.choices if c.logprobs]
    assert len(ids) == 1
    assert usages[-1] == whole.usage and not any(usages[:-1])


@pytest.mark.parametrize("as_ids", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_is_scored_as_in_process(
    client: openai.OpenAI, logits: tuple[list[int], Any], as_ids: bool, stream: bool
) -> None:
    ids, rows = logits
    ask: Any = {
        "model": "m",
        "prompt": ids if as_ids else TEXT,
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": 3,
        "echo": True,
    }
    text, tokens, values, tops, offsets = "", list[str](), list[Any](), list[Any](), list[int]()
    answers: Any = (
        client.completions.create(**ask, stream=True)
        if stream
        else [client.completions.create(**ask)]
    )
    for answer in answers:
        for choice in answer.choices:
            text += choice.text
            if choice.logprobs:
                tokens += choice.logprobs.tokens
                values += choice.logprobs.token_logprobs
                tops += choice.logprobs.top_logprobs
                offsets += choice.logprobs.text_offset
    assert text.startswith(TEXT) and "".join(tokens) == text
    assert len(values) == len(ids) + 1 and values[0] is None and tops[0] is None
    assert [text[o : o + len(t)] for o, t in zip(offsets, tokens, strict=True)] == tokens
    wanted = rows[np.arange(len(ids) - 1), ids[1:]]
    assert np.array(values[1 : len(ids)], float) == pytest.approx(wanted, abs=2e-3)
    for i in range(1, len(ids)):
        assert max(tops[i].values()) == pytest.approx(rows[i - 1].max(), abs=2e-3)
        assert values[i] in tops[i].values() and 3 <= len(tops[i]) <= 4
        assert (values[i] == max(tops[i].values())) == (rows[i - 1].argmax() == ids[i])
    assert values[-1] == pytest.approx(rows[-1].max(), abs=0.02), (
        "what is generated has its own, from the server"
    )


def test_scoring_alone_generates_nothing(
    client: openai.OpenAI, logits: tuple[list[int], Any]
) -> None:
    answer = client.completions.create(model="m", prompt=TEXT, max_tokens=0, echo=True, logprobs=0)
    assert answer.choices[0].text == TEXT and answer.choices[0].finish_reason == "length"
    assert answer.usage and (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (
        len(logits[0]),
        0,
    )
    assert answer.choices[0].logprobs and answer.choices[0].logprobs.top_logprobs is None
    echoed = client.completions.create(
        model="m", prompt=[33, 28], max_tokens=1, echo=True, temperature=0
    )
    assert echoed.choices[0].text.startswith("1,")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"max_tokens": 0}, "nothing is echoed"),
        ({"n": 17}, "n:"),
        ({"prompt": ["a"] * 200, "n": 2}, "at most 256"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["a", [1]]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [10**9], "echo": True, "logprobs": 1}, "token ids"),
        ({"prompt": [10**9]}, "invalid tokens"),
        ({"prompt": "long " * 600, "echo": True, "logprobs": 1}, "256"),
        ({"prompt": ["long " * 600, "a"]}, "256"),
        ({"prompt": ["long " * 600] * 2, "stream": True}, "256"),
        ({"logprobs": 21}, "logprobs"),
        ({"best_of": 2}, "best_of"),
    ],
)
def test_what_cannot_be_answered(gateway: Local, change: dict[str, Any], says: str) -> None:
    status, answer = gateway.post("/v1/completions", {"prompt": "a", "max_tokens": 1} | change)
    assert status == 400 and says in answer["error"]["message"], answer
    assert gateway.inside == 0

"""Chat templates of every family: what transformers renders is what kanna renders.

With a system message, with tools, with their results, with thoughts, thinking on and off.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from helpers import chat_templates
from helpers.chat_templates import NONE, OURS, PACKAGED, STYLES

from kanna import families
from kanna.errors import FormatError
from kanna.serving.engines._chat_prompt import render_chat
from kanna.tokenizer.chat import render

Messages = list[dict[str, Any]]

BOS, EOS = "<s>", "</s>"
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather_of",
        "description": "The weather, in °C or “F”.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Its name"},
                "days": {"type": "integer", "default": 3},
                "unit": {"type": "string", "enum": ["C", "F"], "nullable": True},
                "hours": {"type": "array", "items": {"type": "number"}},
                "place": {"type": "object", "properties": {"x": {"type": "number"}}},
            },
            "required": ["city"],
        },
    },
}
TIME: dict[str, Any] = {"type": "function", "function": {"name": "time_now", "description": "UTC"}}
SYSTEM = {"role": "system", "content": 'Bé brief <&> "now".\nTwo lines. '}
QUESTION = {"role": "user", "content": "  How warm is Kyōto?\n"}
ANSWER = {"role": "assistant", "content": "Warm.\n\n12 °C"}
MORE = {"role": "user", "content": "And Łódź? </think> 🙂"}
ARGUMENTS = {"city": 'Ky"ōto', "days": 2, "hours": [1.5, 2], "place": {"x": None, "y": True}}


def _call(name: str, arguments: dict[str, Any], number: str) -> dict[str, Any]:
    return {"id": number, "type": "function", "function": {"name": name, "arguments": arguments}}


def _calling(**more: Any) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [_call("weather_of", ARGUMENTS, "abcdefg01")],
        **more,
    }


RESULT = {
    "role": "tool",
    "name": "weather_of",
    "tool_call_id": "abcdefg01",
    "content": '{"warm": "ja", "°C": 12}',
}
TWO_CALLS = {
    "role": "assistant",
    "content": "Both.",
    "tool_calls": [
        _call("weather_of", {"city": "A"}, "abcdefg01"),
        _call("time_now", {}, "abcdefg02"),
    ],
}
SECOND = {"role": "tool", "name": "time_now", "tool_call_id": "abcdefg02", "content": "12:00"}
CHATS: dict[str, Messages] = {
    "a question": [QUESTION],
    "a system message": [SYSTEM, QUESTION, ANSWER, MORE],
    "an answer last": [SYSTEM, QUESTION, ANSWER],
    "a call": [SYSTEM, QUESTION, _calling(), RESULT],
    "a call without content": [QUESTION, _calling(content=None), RESULT, ANSWER, MORE],
    "two calls": [SYSTEM, QUESTION, TWO_CALLS, RESULT, SECOND],
    "thoughts": [QUESTION, ANSWER | {"reasoning_content": "\nhm, Kyōto\n"}, MORE],
    "thoughts before a call": [QUESTION, _calling(reasoning_content="I look"), RESULT],
    "thoughts under another name": [QUESTION, ANSWER | {"thinking": "hm"}, MORE, ANSWER],
    "thoughts in the text": [QUESTION, {**ANSWER, "content": "<think>\nhm\n</think>\n\nWarm."}],
    "parts": [{"role": "user", "content": [{"type": "text", "text": " How "}]}],
    "a switch in the text": [SYSTEM | {"content": "Short. /no_think"}, QUESTION],
    "no roles in turn": [QUESTION, MORE, ANSWER, ANSWER],
    "an unknown role": [QUESTION, {"role": "judge", "content": "Guilty."}],
}
ON: dict[str, Any] = {"enable_thinking": True, "thinking": True, "reasoning_effort": "high"}
OFF: dict[str, Any] = {"enable_thinking": False, "thinking": False, "reasoning_effort": "low"}
SETTINGS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "tools": {"tools": [WEATHER, TIME]},
    "thinking": ON,
    "tools, no thinking": {"tools": [WEATHER], **OFF},
    "no thinking, no prompt": {"add_generation_prompt": False, **OFF},
}
TAKES_TOOLS = frozenset(STYLES) - {
    *("ernie4_5", "gemma2", "gemma3", "gemma3n", "mixtral", "olmoe", "stablelm"),
}
"""Families with a published template that shows tools."""
THINKS = {"exaone4", "gemma4", "gpt_oss", "granite", "hunyuan", "nemotron_h", "qwen3", "qwen35"} | {
    *("granite4", "granitehybrid", "granitemoe", "nemotron_h_moe", "olmo2"),
    *("qwen35moe", "qwen3moe", "qwen3vl", "qwen3vlmoe", "smollm3"),
}
"""Families with a published template that thinks or does not, as the request wants."""

REFUSED = "\0 the template refuses it"


def _ours(template: str, messages: Messages, settings: dict[str, Any]) -> str:
    try:
        return render(template, messages, bos=BOS, eos=EOS, **settings)
    except FormatError:
        return REFUSED


@pytest.fixture(scope="module")
def theirs() -> Callable[[str, Messages, dict[str, Any]], str]:
    """`apply_chat_template` of a tokenizer of transformers."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    loaded = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(tokenizers.models.BPE()),
        bos_token=BOS,
        eos_token=EOS,
    )

    def rendered(template: str, messages: Messages, settings: dict[str, Any]) -> str:
        settings = {"add_generation_prompt": True, **settings}
        try:
            return loaded.apply_chat_template(
                messages, chat_template=template, tokenize=False, **settings
            )
        except Exception:  # whatever a template raises
            return REFUSED

    return rendered


def test_every_family_has_its_templates() -> None:
    predicting = {name for name in families.names() if not families.get(name).encodes}
    listed = set(STYLES) | set(NONE)
    assert not predicting - listed, "name their templates in tests/helpers/chat_templates"
    assert not listed - predicting
    assert {style for styles in STYLES.values() for style in styles} == {*OURS, *PACKAGED}


@pytest.mark.parametrize("name", [*PACKAGED, *OURS])
def test_a_chat_is_rendered_as_transformers_renders_it(
    name: str, theirs: Callable[[str, Messages, dict[str, Any]], str]
) -> None:
    template = chat_templates.read(name)
    rendered = 0
    for chat, messages in CHATS.items():
        for setting, settings in SETTINGS.items():
            before = _ours(template, messages, settings)
            expected = theirs(template, messages, settings)
            if before != expected:  # a template that has today's date, at midnight
                assert _ours(template, messages, settings) == expected, (chat, setting)
            rendered += expected != REFUSED
    # Few templates take every chat, and none of these refuses most.
    assert rendered * 2 > len(CHATS) * len(SETTINGS)


@pytest.mark.parametrize("family", STYLES)
def test_a_template_shows_what_it_is_given(family: str) -> None:
    """What is compared above has tools, results and thoughts in it, or says nothing of them."""
    chats = [CHATS["a call"], CHATS["a call without content"], CHATS["two calls"]]
    shows_tools = shows_results = thinks = False
    for template in map(chat_templates.read, STYLES[family]):
        plain = _ours(template, CHATS["a question"], {})
        assert "How warm is Kyōto?" in plain
        asked = [CHATS["a question"], *chats]
        with_tools = [_ours(template, chat, {"tools": [WEATHER]}) for chat in asked]
        shows_tools |= any("The weather, in °C" in text for text in with_tools)
        shows_results |= any('{"warm"' in text or r"{\"warm" in text for text in with_tools[1:])
        on, off = (_ours(template, CHATS["a question"], settings) for settings in (ON, OFF))
        thinks |= on != off
    assert shows_tools == (family in TAKES_TOOLS)
    assert shows_results or not shows_tools
    assert thinks == (family in THINKS)


def test_a_chat_of_a_client_is_rendered_as_transformers_renders_it(
    theirs: Callable[[str, Messages, dict[str, Any]], str],
) -> None:
    """Clients send arguments of calls as text; templates want objects, as transformers gives."""
    for name in ("qwen35", "lfm2", "qwen3"):
        template = chat_templates.read(name)
        for messages in (CHATS["a call"], CHATS["two calls"]):
            sent = json.loads(json.dumps(messages))
            for call in (c for m in sent for c in m.get("tool_calls", [])):
                call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
            settings: dict[str, Any] = {"tools": [WEATHER, TIME]}
            text = render_chat(
                lambda shape, template=template, settings=settings: render(
                    template, shape, bos=BOS, eos=EOS, **settings
                ),
                sent,
                has_developer=False,
            )
            assert text == theirs(template, messages, settings)


@pytest.mark.parametrize("name", OURS)
def test_a_long_chat_is_within_the_limits(name: str) -> None:
    turns = [QUESTION, ANSWER | {"reasoning_content": "hm"}] * 1000
    text = _ours(chat_templates.read(name), [SYSTEM, *turns, MORE], {"tools": [WEATHER], **ON})
    assert text.count("How warm is Kyōto?") == 1000

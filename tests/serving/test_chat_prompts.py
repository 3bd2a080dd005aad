"""Chats in the shapes that templates take, and text of tokens that are parts of characters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from kanna.errors import FormatError
from kanna.serving.engines._text_codec import TextCodec

PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
LISTED = (
    "{% for m in messages %}{% if m.role in ('system', 'user', 'assistant') %}"
    "<{{ m.role }}>{{ m.content }}{% endif %}{% endfor %}"
)
STRICT = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}<{{ m.role }}>{{ m.content }}"
    "{% endfor %}"
)
FIRST = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}"
    "{{ raise_exception('system first') }}{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}"
)
CALLS = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}"
)
JOINED = CALLS.replace("{{ c.function.arguments | tojson }}", "{{ '!' + c.function.arguments }}")


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


CALLED = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    ],
}


def byte_level() -> tokenizers.Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: number for number, character in enumerate(alphabet)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    return tokenizer


def with_fallback() -> tokenizers.Tokenizer:
    texts = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁the", "▁", "a"]
    vocabulary = {text: number for number, text in enumerate(texts)}
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(["<end>"])
    return tokenizer


def codec(folder: Path, template: str, tokenizer: tokenizers.Tokenizer | None = None) -> TextCodec:
    (tokenizer or byte_level()).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return TextCodec(folder, [])


@pytest.mark.parametrize(
    ("template", "messages", "prompt"),
    [
        (PLAIN, [{"role": "developer", "content": "s"}, user("a")], "<system>s<user>a"),
        (LISTED, [{"role": "developer", "content": "s"}, user("a")], "<system>s<user>a"),
        (
            PLAIN + "{# developer #}",
            [{"role": "developer", "content": "s"}, user("a")],
            "<developer>s<user>a",
        ),
        (STRICT, [system("s"), user("a")], "<user>s\n\na"),
        (STRICT, [user("a"), user("b")], "<user>a\n\nb"),
        (
            STRICT,
            [{"role": "developer", "content": "s"}, user("a"), user("b")],
            "<user>s\n\na\n\nb",
        ),
        (FIRST, [user("a"), system("s"), user("b")], "<system>s<user>a\n\nb"),
        (FIRST, [system("s"), system("t"), user("a")], "<system>s\n\nt<user>a"),
        (CALLS, [user("a"), CALLED], '<user>a<assistant>{"x": 1}'),
        (JOINED, [user("a"), CALLED], '<user>a<assistant>!{"x": 1}'),
        (PLAIN, [user("a"), system("s"), user("b")], "<user>a<system>s<user>b"),
    ],
)
def test_a_chat_in_the_shape_a_template_takes(
    tmp_path: Path, template: str, messages: list[dict[str, Any]], prompt: str
) -> None:
    assert codec(tmp_path, template).apply_template({"messages": messages}) == prompt


def test_a_template_that_takes_nothing_says_why(tmp_path: Path) -> None:
    refusing = codec(tmp_path, "{{ raise_exception('not today') }}")
    with pytest.raises(FormatError, match="not today"):
        refusing.apply_template({"messages": [system("s"), user("a")]})


def test_variables_of_a_request_do_not_take_the_place_of_the_chat(tmp_path: Path) -> None:
    body = {"messages": [user("a")], "chat_template_kwargs": {"messages": [], "bos": "x", "y": 2}}
    assert codec(tmp_path, PLAIN + "{{ y }}").apply_template(body) == "<user>a2"


@pytest.mark.parametrize("make", [byte_level, with_fallback])
def test_bytes_become_characters_when_they_are_complete(tmp_path: Path, make: Any) -> None:
    tokenizer = make()
    text = codec(tmp_path, PLAIN, tokenizer)
    table = {text.token_bytes(i): i for i in range(tokenizer.get_vocab_size())}

    def write(data: bytes, last: int | None = None) -> list[str]:
        stream = text.stream(continues=False)
        ids = [table[bytes([byte])] for byte in data] + ([] if last is None else [last])
        return [*map(stream.step, ids), stream.flush()]

    assert write("a🙂é".encode()) == ["a", "", "", "", "🙂", "", "é", ""]
    assert write(b"a\xf0\x9f") == ["a", "", "", "\ufffd"], "cut off inside a character"
    assert "".join(write(b"\xe2\x82\xac\x80a\xff")) == "€\ufffda\ufffd", "what is whole stays"
    end = int(tokenizer.token_to_id("<end>") or 0)
    assert write(b"\xc3", end) == ["", "", "\ufffd"], "a control token writes nothing"


def test_words_keep_their_spaces(tmp_path: Path) -> None:
    tokenizer = with_fallback()
    text = codec(tmp_path, PLAIN, tokenizer)
    the, a = (int(tokenizer.token_to_id(word) or 0) for word in ("▁the", "a"))
    for continues, written in ((False, "the thea the"), (True, " the thea the")):
        stream = text.stream(continues=continues)
        assert "".join(map(stream.step, [the, the, a, the])) == written
    assert text.token_bytes(the) == b" the"

"""Text from artefacts, and chat templates: rendered as transformers does, in a sandbox."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kanna.cli.main import cli
from kanna.errors import FormatError, MissingError, NotFoundError, UsageError
from kanna.generation import Answer, chat, chat_ids, close, generate, open_engine
from kanna.runtimes.base import GenerationStats, Sampling
from kanna.runtimes.llamacpp import RUNTIME
from kanna.sources import packages
from kanna.tokenizer.chat import render

needs_llama = pytest.mark.skipif(not RUNTIME.available().ok, reason="needs llama.cpp")
HELLO = [{"role": "user", "content": "Hello <b>"}]


def test_blocks_are_trimmed_and_nothing_is_escaped() -> None:
    template = (
        "{% for m in messages %}\n  {% if m.role == 'user' %}\n"
        "[{{ m['content'] }}]\n  {% endif %}\n{% endfor %}"
    )
    assert render(template, HELLO) == "[Hello <b>]\n"


def test_what_real_templates_use() -> None:
    template = (
        "{{- bos_token -}}{% set ns = namespace(n=0) %}{% for m in messages %}"
        "{% if m.role == 'system' %}{% continue %}{% endif %}{% set ns.n = ns.n + 1 %}"
        "{% generation %}{{ m.content | trim }}{% endgeneration %}{% endfor %}"
        "{{ ns.n }}{{ {'ä': [1, none]} | tojson }}{% if add_generation_prompt %}>{% endif %}"
        "{{ strftime_now('%Y') | length }}{{ tools is defined }}{{ eos_token }}"
    )
    messages = [{"role": "system", "content": "x"}, {"role": "user", "content": " hi "}]
    # transformers passes tools in any case: None where there are none.
    assert render(template, messages, bos="<s>", eos="</s>") == '<s>hi1{"ä": [1, null]}>4True</s>'


def test_templates_are_rendered_as_transformers_does() -> None:
    chat_template = pytest.importorskip("transformers.utils.chat_template_utils")
    for template in (
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '\n' }}{% endfor %}",
        "{{ messages | tojson }}\n{% if true %}\n  a\n{% endif %}\n  b",
        "{%- for m in messages %}\n    {{- m.content }}\n{%- endfor %}\n",
    ):
        wanted = chat_template._compile_jinja_template(template).render(
            messages=HELLO, add_generation_prompt=True, bos_token="", eos_token=""
        )
        assert render(template, HELLO) == wanted


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception('roles must alternate') }}",
        "{% for i in range(10**9) %}x{% endfor %}",
        "{{ 'a' * 1000000000000 }}",
        "{{ 10 ** 10000000000 }}",
        "{% for m in messages %}",
        "{{ nothing.at.all }}",
        "{{ 1 / 0 }}",
        "{% include 'secret' %}",
        "x" * (1 << 20) + "y",
    ],
)
def test_hostile_and_broken_templates_are_refused(template: str) -> None:
    with pytest.raises(FormatError, match="chat template"):
        render(template, HELLO)


@pytest.fixture(scope="module")
def model() -> Path:
    return packages.smollm2_gguf()


@needs_llama
def test_generate_streams_and_repeats(model: Path) -> None:
    pieces = list(generate(model, "Once upon a time", max_tokens=8, threads=1, context=256))
    assert len(pieces) > 2
    again = generate(model, "Once upon a time", max_tokens=8, threads=1, context=256)
    assert "".join(again) == "".join(pieces)
    assert open_engine(model, threads=1, context=256) is open_engine(model, threads=1, context=256)
    sampled = [
        "".join(
            generate(
                model, "A", max_tokens=6, temperature=1.2, top_p=0.9, seed=3, threads=1, context=256
            )
        )
        for _ in range(2)
    ]
    assert sampled[0] == sampled[1]
    assert list(generate(model, "", max_tokens=2, threads=1, context=256)) is not None


@needs_llama
def test_chat_reads_only_what_is_new(model: Path) -> None:
    messages = [{"role": "user", "content": "Say hello."}]
    answer = "".join(chat(model, messages, max_tokens=6, threads=1, context=512))
    engine = open_engine(model, threads=1, context=512)
    assert engine.last.reused_tokens == 0
    first = engine.last.prompt_tokens
    messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": "Again."}]
    assert "".join(chat(model, messages, max_tokens=6, threads=1, context=512))
    assert engine.last.reused_tokens >= first
    same = "".join(generate(model, "Say hello.", chat=True, max_tokens=6, threads=1, context=512))
    assert same == answer


@needs_llama
def test_a_text_is_what_the_user_says(model: Path) -> None:
    how: dict[str, Any] = {"max_tokens": 6, "threads": 1, "context": 512}
    message = {"role": "user", "content": "hello"}
    answer = "".join(chat(model, [message], **how))
    assert "".join(chat(model, "hello", **how)) == answer
    assert "".join(chat(model, message, **how)) == answer
    stopped = answer.partition(answer[1:3])[0]
    assert "".join(chat(model, "hello", stop=answer[1:3], **how)) == stopped


@pytest.mark.parametrize("messages", [[], ["hello"], [{"content": "hello"}], [None], [{"role": 1}]])
def test_what_is_no_conversation_is_refused(messages: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="message") as caught:
        chat(tmp_path / "absent.gguf", messages)
    assert '"role": "user"' in caught.value.expected


@needs_llama
def test_the_template_is_read_as_special_tokens(model: Path) -> None:
    engine = open_engine(model, threads=1, context=512)
    ids = chat_ids(engine, HELLO)
    text = engine.detokenize(ids, special=True)
    assert text.endswith("<|im_start|>user\nHello <b><|im_end|>\n<|im_start|>assistant\n")
    assert ids.count(engine.tokenize("<|im_start|>", special=True)[0]) == 3
    close()


@needs_llama
def test_bos_comes_once_and_a_template_is_needed(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RUNTIME.open(model, vocab_only=True) as engine:
        engine.chat_template = "{{ bos_token }}{{ messages[0].content }}"
        real = engine.tokenize
        # As a model that adds BOS by itself would.
        monkeypatch.setattr(engine, "tokenize", lambda t, **k: [engine.bos, *real(t, special=True)])
        ids = chat_ids(engine, HELLO)
        assert ids.count(engine.bos) == 1
        engine.chat_template = None
        with pytest.raises(UsageError, match="no chat template"):
            chat_ids(engine, HELLO)


@needs_llama
def test_files_that_cannot_run(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="does not exist"):
        generate(tmp_path / "absent.gguf", "x")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF")
    with pytest.raises(FormatError):
        generate(tmp_path / "bad.gguf", "x")


@needs_llama
def test_an_answer_is_read_in_pieces_or_whole(model: Path) -> None:
    how: dict[str, Any] = {"max_tokens": 6, "threads": 1, "context": 256}
    answer = generate(model, "Once upon a time", **how)
    assert "not read to its end" in repr(answer)
    first = next(answer)
    whole = answer.text
    assert whole.startswith(first) and whole == answer.text == "".join(
        generate(model, "Once upon a time", **how)
    )
    assert answer and answer.ok and answer.usage.reason == "length"
    assert answer.usage.tokens == 6 and answer.usage.prompt_tokens > 2
    assert answer.to_dict()["usage"]["reason"] == "length" and whole in answer.to_dict()["text"]
    assert "ended by length" in repr(answer)
    close()


@needs_llama
def test_an_answer_that_is_not_whole_is_not_ok(model: Path) -> None:
    how: dict[str, Any] = {"max_tokens": 200, "threads": 1, "context": 256}
    read, unread = (generate(model, "Once upon a time", **how) for _ in range(2))
    text = next(read)
    for answer in (read, unread):
        answer.close()
        assert not answer and not answer.ok and answer.usage.reason == "closed"
    assert read.text == text and unread.text == ""
    # The same process with another engine: nothing of what was left stops it.
    full = generate(model, "Once upon a time", max_tokens=500, threads=1, context=16)
    assert not full.ok and full.usage.reason == "context" and full.usage.tokens > 2
    close()


def test_an_answer_that_fails_has_the_figures_of_no_other() -> None:
    class Failing:
        last = GenerationStats(tokens=3, reason="eog")  # of the answer before

    def pieces() -> Iterator[str]:
        raise FormatError("a prompt that fails")
        yield ""

    engine: Any = Failing()
    answer = Answer(engine, pieces())
    with pytest.raises(FormatError):
        answer.to_dict()
    assert not answer.ok and answer.usage == GenerationStats(reason="error")
    assert "ended by error" in repr(answer)
    shown = Answer(engine, iter(["a <b>", "c"]))
    assert "a &lt;b&gt;c" in shown._repr_html_()  # pyright: ignore[reportPrivateUsage]
    assert "ended by eog" in repr(shown) and shown.ok


@needs_llama
def test_json_has_the_figures_of_an_answer(model: Path) -> None:
    arguments = ["generate", str(model), "Once", "--max-tokens", "3", "--threads", "1", "--json"]
    ran = CliRunner().invoke(cli, arguments)
    shown = json.loads(ran.stdout)
    assert ran.exit_code == 0 and {"model", "prompt", "text", "seconds"} < set(shown)
    assert shown["ok"] and shown["usage"]["tokens"] == 3 and shown["usage"]["reason"] == "length"
    close()


@pytest.mark.parametrize(
    "given",
    [
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"temperature": -0.1},
        {"top_p": float("nan")},
        {"top_p": 1.5},
    ],
    ids=str,
)
def test_sampling_that_cannot_be_meant(given: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(given))} is"):
        Sampling(**given)  # type: ignore[arg-type]


def test_a_folder_without_its_runtime_is_told_the_way_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").touch()
    monkeypatch.setattr("kanna.runtimes.torch._NEEDED", ("no_such_torch",))
    with pytest.raises(MissingError) as refused:
        open_engine(tmp_path)
    assert f"kanna convert {tmp_path} -o model.gguf" in str(refused.value)
    assert "[torch]" in str(refused.value)

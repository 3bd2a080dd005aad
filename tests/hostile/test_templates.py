"""Chat templates that loop, fill the memory or break out end soon, with one kind of error."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from kanna.chat_templates import pool
from kanna.errors import FormatError, KannaError, MissingError, TemplateLimitError
from kanna.packaging.chat_turns import turn_markers
from kanna.serving.engines._chat_prompt import render_chat
from kanna.tokenizer import reference_worker
from kanna.tokenizer.chat import render

GREETING: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]
GROWING = (
    "{% set n = namespace(x=SEED) %}{% for i in range(60) %}{% set n.x = n.x OP n.x %}{% endfor %}"
)
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"

ENDLESS = {
    "nested loops": LOOP,
    "filtered loops": LOOP.replace("99999) %}{% endfor %}", "99999) if false %}{% endfor %}"),
    "macros that call twice": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}"
    "{% endmacro %}{{ f(60) }}",
    "a macro that calls itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a block in itself": "{% block a %}{{ self.a() }}{% endblock %}",
    "a recursive loop": "{% for a in [[1]] recursive %}{{ loop(messages) }}{% endfor %}",
    "numbers that square": GROWING.replace("SEED", "9999").replace("OP", "*"),
    "slices": "{{ [1] | slice(10 ** 9) | list | length }}",
    "filler": "{{ lipsum(n=10000000) | length }}",
}
LARGE = {
    "a width": "{{ ('%1500000000d' % 1) | length }}",
    "a format's width": "{{ '{:>1500000000}'.format(1) | length }}",
    "center": "{{ 'a' | center(2000000000) | length }}",
    "indent": "{{ 'a\nb' | indent(1500000000) | length }}",
    "batch": "{{ [1] | batch(10 ** 9, 'x') | list | length }}",
    "join": "{{ (['x' * 1000000] * 1000) | join('y' * 1000000) | length }}",
    "JSON's indentation": "{{ messages | tojson(indent=100000000) | length }}",
    "text that doubles": GROWING.replace("SEED", "'aaaaaaaa'").replace("OP", "+"),
    "output": "{% for i in range(99999) %}" + "x" * 1000 + "{% endfor %}",
    "a template of 10 MB": "x" * 10_000_000,
    "parentheses": "{{ " + "(" * 100_000 + "1" + ")" * 100_000 + " }}",
    "tags in tags": "{% if 1 %}" * 20_000 + "{% endif %}" * 20_000,
    "signs": "{{ " + "-" * 50_000 + "1 }}",
}
REFUSED = {
    "repetition": "{{ 'x' * 10 ** 9 }}",
    "powers": "{{ 10 ** 10 ** 10 }}",
    "classes": "{{ ''.__class__.__mro__ }}",
    "classes by a format": "{{ '{0.__class__.__mro__}'.format(1) }}",
    "a private attribute": "{% set n = namespace(__class__=1) %}",
    "another file": "{% include '/etc/passwd' %}",
    "a file's end": "{% raw %}{% if",
    "a list that changes": "{{ messages.append(1) }}",
}


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A moment for each rendering, for the sake of the test's own time."""
    monkeypatch.setattr(pool, "SECONDS", 0.3)


@pytest.mark.parametrize("name", [*ENDLESS, *LARGE])
def test_a_template_has_limits(name: str) -> None:
    before = os.times()
    with pytest.raises(TemplateLimitError, match=r"^the chat template \w") as caught:
        render((ENDLESS | LARGE)[name], GREETING)
    after = os.times()  # processor time: by the clock, others on the machine would count
    assert after.children_user + after.children_system < (
        before.children_user + before.children_system + 20
    )
    assert "\n" not in caught.value.found
    assert render("{{ messages[0].content }}", GREETING) == "hi"  # the next one is not its victim


@pytest.mark.parametrize("name", REFUSED)
def test_a_template_stays_in_its_sandbox(name: str) -> None:
    with pytest.raises(FormatError, match="the chat template cannot be rendered") as caught:
        render(REFUSED[name], GREETING)
    assert not isinstance(caught.value, TemplateLimitError)


@pytest.mark.parametrize(
    "value", [object(), {"a": {1, 2}}, 10**5000], ids=["an object", "a set", "digits"]
)
def test_a_template_gets_plain_data(value: object) -> None:
    with pytest.raises(FormatError, match="cannot be given that"):
        render("{{ x }}", GREETING, x=value)


def test_an_attribute_of_a_namespace_may_be_called_self() -> None:
    assert render("{% set n = namespace(self=1) %}{{ n.self }}", GREETING) == "1"


def test_the_process_that_renders_knows_nothing_of_this_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("A_SECRET", "of this process")
    process = pool.RenderProcess()
    try:
        if Path("/proc/self/environ").exists():
            there = Path(f"/proc/{process.child.pid}/environ").read_bytes()
            assert b"A_SECRET" not in there
    finally:
        process.kill()


def test_a_process_that_was_killed_is_replaced() -> None:
    assert render("{{ 1 }}", GREETING) == "1"
    for process in pool.shared_pool.idle:
        os.kill(process.child.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        process.child.wait()
    assert render("{{ 2 }}", GREETING) == "2"


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs signals of POSIX")
@pytest.mark.parametrize("sign", ["SIGSTOP", "SIGKILL"])
def test_a_machine_that_is_busy_or_full_is_no_fault_of_a_template(
    monkeypatch: pytest.MonkeyPatch, sign: str
) -> None:
    monkeypatch.setattr(pool, "_WAIT", 1.0)
    render("{{ 1 }}", GREETING)
    ask = pool.RenderProcess.ask

    def ask_while_others_run(process: pool.RenderProcess, data: bytes) -> dict[str, str] | None:
        os.kill(process.child.pid, getattr(signal, sign))
        return ask(process, data)

    monkeypatch.setattr(pool.RenderProcess, "ask", ask_while_others_run)
    with pytest.raises(MissingError, match="killed by the system, or got no processor time"):
        render("{{ 2 }}", GREETING)


def test_others_are_rendered_while_one_loops() -> None:
    errors: list[KannaError] = []

    def loop() -> None:
        try:
            render(ENDLESS["slices"], GREETING)
        except KannaError as error:
            errors.append(error)

    looping = [threading.Thread(target=loop) for _ in range(2)]
    for thread in looping:
        thread.start()
    for i in range(50):
        assert render("{{ messages[0].content }}" + str(i), GREETING) == f"hi{i}"
    for thread in looping:
        thread.join()
    assert [type(error) for error in errors] == [TemplateLimitError] * 2


def test_no_other_shape_of_a_chat_is_tried_after_a_limit() -> None:
    tried: list[object] = []

    def fill(messages: list[dict[str, Any]]) -> str:
        tried.append(messages)
        return render(LOOP, messages)

    with pytest.raises(TemplateLimitError):
        render_chat(fill, [{"role": "system", "content": "a"}, *GREETING], has_developer=False)
    assert len(tried) == 1


def test_a_package_leaves_a_template_out_that_loops() -> None:
    assert turn_markers(LOOP) is None


class _Tokenizer:
    """The parts of a tokenizer of transformers that render."""

    chat_template = LOOP
    bos_token = eos_token = None

    def get_chat_template(self) -> str:
        return self.chat_template

    def apply_chat_template(self, *_: object, **__: object) -> str:
        raise AssertionError("transformers renders without limits")


def test_transformers_is_not_given_a_template_that_loops() -> None:
    rendered = reference_worker._all_rendered(_Tokenizer(), [GREETING, GREETING])  # type: ignore[arg-type]
    assert len(rendered) == 4
    assert all("steps" in answer["error"] or "end" in answer["error"] for answer in rendered)

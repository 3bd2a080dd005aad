"""Chats are rendered under limits before an engine's own program renders them without any.

llama.cpp's server renders a chat template in its own process, in which neither a loop nor a
gigabyte can be ended but with the server. So the same chat is rendered in kanna's sandbox first: a
third of a millisecond of work, a fifth of the time that llama.cpp takes for the same template.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kanna.chat_templates import pool
from kanna.errors import FormatError, MissingError, TemplateLimitError
from kanna.serving.engines._chat_prompt import render_chat
from kanna.serving.requests import pictures
from kanna.tokenizer import templates
from kanna.tokenizer.chat import variables_of

PLAIN = "{% for message in messages %}{{ message.content }}\n{% endfor %}"
"""A template in place of one that cannot be used; no chat is rendered with it."""
_SECONDS = 0.5
_TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
]
_TRIED: list[dict[str, Any]] = [
    {"messages": _TURNS[1:2]},
    {"messages": _TURNS},
    {
        "messages": _TURNS,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
    },
]
"""What a server renders when it starts, to learn what a template can do."""


@dataclass(slots=True, kw_only=True)
class ChatCheck:
    """The templates of an artefact.

    Attributes:
        named: By name, as `kanna.tokenizer.templates` has them.
        bos: Text of the token that begins a text; empty: none.
        eos: Text of the token that ends a text.
        controls: Texts of all tokens that are no text, those that end an answer among them.
        problem: Why no chat is answered; empty: the template renders what was tried.
    """

    named: Mapping[str, str]
    bos: str = ""
    eos: str = ""
    controls: frozenset[str] = frozenset()
    problem: str = field(default="", init=False)

    def __post_init__(self) -> None:
        try:
            for body in _TRIED:
                self.check(body)
        except (TemplateLimitError, MissingError) as error:
            self.problem = error.found

    def begins_beyond_its_end(self, body: dict[str, Any]) -> bool:
        """Whether a chat holds an answer to a form, and begins it with a token that ends answers.

        llama.cpp reads the last message of an assistant as the beginning of the answer, has its
        grammar accept each token of it, and ends the program where that is an end.
        """
        last = body["messages"][-1]
        shape = (body.get("response_format") or {}).get("type", "text")
        held = shape != "text" or body.get("json_schema") is not None or body.get("tools")
        if last.get("role") != "assistant" or not held:
            return False
        text = "".join(_texts(last))
        return any(control in text for control in self.controls)

    def check(self, body: dict[str, Any]) -> None:
        """Render a chat, and forget it; a template that refuses it is the engine's to explain.

        Args:
            body: Of the request.

        Raises:
            TemplateLimitError: The template takes more than it may.
            MissingError: The machine has no memory or no time for it.
        """
        if self.problem:
            raise TemplateLimitError(self.problem)
        template = templates.choose(self.named, body.get("tools"))
        if not template:
            return
        options: dict[str, Any] = dict(body.get("chat_template_kwargs") or {})
        if body.get("tools"):
            options["tools"] = body["tools"]

        def fill(messages: list[dict[str, Any]]) -> str:
            variables = options | variables_of(messages, bos=self.bos, eos=self.eos)
            return pool.render(template, {"tools": None, **variables}, seconds=_SECONDS)

        try:
            render_chat(
                fill, pictures.without(body["messages"]), has_developer="developer" in template
            )
        except TemplateLimitError:
            raise
        except (FormatError, ValueError):
            return


def _texts(value: Any) -> Iterator[str]:
    """Every text in a message, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, part in value.items():
            if name not in ("role", "type"):
                yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)

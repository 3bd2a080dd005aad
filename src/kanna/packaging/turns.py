"""The shape of a chat template: what stands before and after each turn, found by rendering it.

Ollama writes chats with Go templates and knows no Jinja. Most models' templates do nothing but put
fixed text around each turn: that text is found with marked messages, and what was found is held
against the template on conversations it was not found on. A template that does more has no shape,
and none is guessed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from kanna.errors import FormatError
from kanna.tokenizer.chat import Message, render

# Texts no template holds, and none of which begins another.
_U, _A, _V, _S = "\u27eaUSER\u27eb", "\u27eaREPLY\u27eb", "\u27eaAGAIN\u27eb", "\u27eaRULES\u27eb"


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """user, assistant, system: (before, after) each turn; opening: before the reply to come.

    Attributes:
        system: None when the template has no such turn.
        joined: The rules stand at the head of the first user's turn: (before, between rules and
            user).
        default: Rules the template puts in itself when none are given.
    """

    user: tuple[str, str]
    assistant: tuple[str, str]
    opening: str
    system: tuple[str, str] | None = None
    joined: tuple[str, str] | None = None
    default: str = ""

    @property
    def stop(self) -> str:
        """What ends a reply, when it is one mark."""
        found = self.assistant[1].strip()
        return "" if any(c.isspace() for c in found) else found

    def text(self, messages: Sequence[Message]) -> str:
        """A conversation, as the Go template writes it."""
        parts: list[str] = []
        rules = next((m["content"] for m in messages if m["role"] == "system"), self.default)
        turns = [m for m in messages if m["role"] != "system"]
        if rules and self.system:
            parts += [self.system[0], rules, self.system[1]]
        for number, message in enumerate(turns):
            before, after = self.user if message["role"] == "user" else self.assistant
            if number == 0 and rules and self.joined:
                before = self.joined[0] + rules + self.joined[1]
            parts += [before, message["content"], after]
        return "".join([*parts, self.opening])

    def go(self) -> str:
        """The same as a Go template for Ollama, which gives `.System` and `.Messages`."""
        parts: list[str] = []
        if self.system:
            parts += [
                "{{ if .System }}",
                _go(self.system[0]),
                "{{ .System }}",
                _go(self.system[1]),
                "{{ end }}",
            ]
        first = _go(self.user[0])
        if self.joined:
            # The first message may be the rules themselves: what comes first is counted without
            # them.
            parts.append("{{ $rules := .System }}")
            first = (
                f"{{{{ if $rules }}}}{_go(self.joined[0])}{{{{ $rules }}}}{_go(self.joined[1])}"
                f'{{{{ $rules = "" }}}}{{{{ else }}}}{first}{{{{ end }}}}'
            )
        parts += [
            "{{ range .Messages }}",
            '{{ if eq .Role "user" }}',
            first,
            "{{ .Content }}",
            _go(self.user[1]),
            '{{ else if eq .Role "assistant" }}',
            _go(self.assistant[0]),
            "{{ .Content }}",
            _go(self.assistant[1]),
            "{{ end }}{{ end }}",
            _go(self.opening),
        ]
        return "".join(parts)


def _go(text: str) -> str:
    """Text inside a Go template and inside Ollama's triple quotes."""
    if "{{" in text or "}}" in text or '"' in text:
        # JSON's escapes are Go's; never three quotes in a row.
        return (
            "{{ " + json.dumps(text, ensure_ascii=False).replace('\\"', "\\x22") + " }}"
            if text
            else ""
        )
    return text


def turns_of(template: str, *, eos: str = "") -> Turns | None:
    """The shape of a Jinja chat template, or None when it does more than wrap each turn.

    themselves.

    Args:
        eos: Text of the end token. The text of the first token is left out: runtimes put it in.
    """
    try:
        found = _found(template, eos)
        return found if found and _holds(found, template, eos) else None
    except FormatError:
        return None


def _write(template: str, eos: str, *messages: tuple[str, str], opening: bool = True) -> str:
    told = [{"role": role, "content": content} for role, content in messages]
    return render(template, told, bos="", eos=eos, add_generation_prompt=opening)


def _found(template: str, eos: str) -> Turns | None:
    user, reply, again = ("user", _U), ("assistant", _A), ("user", _V)
    closed = _write(template, eos, user, opening=False)
    opened = _write(template, eos, user)
    if not opened.startswith(closed):
        return None
    opening = opened[len(closed) :]
    chat = _write(template, eos, user, reply, again, opening=False)
    one = _write(template, eos, user, reply, opening=False)
    if any(chat.count(mark) != 1 for mark in (_U, _A, _V)) or one.count(_A) != 1:
        return None
    head, rest = chat.split(_U)
    between, rest = rest.split(_A)
    second, user_end = rest.split(_V)
    reply_end = one.split(_A)[1]
    if not (between.startswith(user_end) and second.startswith(reply_end)):
        return None
    user_turn = (second[len(reply_end) :], user_end)
    reply_turn = (between[len(user_end) :], reply_end)
    if not head.endswith(user_turn[0]):
        return None
    head = head[: len(head) - len(user_turn[0])]
    bare = Turns(user=user_turn, assistant=reply_turn, opening=opening)
    return _with_rules(bare, template, eos, head)


def _with_rules(bare: Turns, template: str, eos: str, head: str) -> Turns | None:
    """Add how the rules of a system message are written.

    `head` is what stands there without one.
    """
    try:
        told = _write(template, eos, ("system", _S), ("user", _U), opening=False)
    except FormatError:
        told = ""  # a template may refuse a system message
    if told.count(_S) != 1 or told.count(_U) != 1:
        return bare if not head else None
    before, rest = told.split(_S)
    between = rest.split(_U)[0]
    if between.endswith(bare.user[0]) and bare.user[0]:
        after = between[: len(between) - len(bare.user[0])]
        if not head:
            return replace(bare, system=(before, after))
        if head.startswith(before) and head.endswith(after):
            return replace(
                bare, system=(before, after), default=head[len(before) : len(head) - len(after)]
            )
        return None
    return replace(bare, joined=(before, between)) if not head else None


def _holds(found: Turns, template: str, eos: str) -> bool:
    """Whether the shape writes what the template writes, on conversations it was not found on."""
    asked, said = (
        ("user", "What is 2 + 2?\nShow {{ your }} <work>."),
        ("assistant", "It is 4.\n\n```\n2 + 2\n```"),
    )
    again, once_more = ("user", "Sure?"), ("assistant", "Quite.")
    tries = [[asked], [asked, said, again], [asked, said, again, once_more, asked]]
    if found.system or found.joined:
        tries += [[("system", "Be brief."), *t] for t in tries]
    return all(
        found.text([{"role": r, "content": c} for r, c in t]) == _write(template, eos, *t)
        for t in tries
    )

"""The fixed text around each turn of a chat template, detected by rendering it.

Ollama renders chats with Go templates, not Jinja. Most chat templates only put fixed text around
each turn. That text is detected with marker messages, and checked against the template on other
conversations. A template that does more is not translated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kanna.errors import FormatError
from kanna.escaping import json_text, visible_text
from kanna.tokenizer.chat import Message, render

# Marker messages: texts that no template contains, none a prefix of another.
_USER, _REPLY, _SECOND_USER, _SYSTEM = (
    "\u27eaUSER\u27eb",
    "\u27eaREPLY\u27eb",
    "\u27eaAGAIN\u27eb",
    "\u27eaRULES\u27eb",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnMarkers:
    """The text before and after each turn, by role.

    Attributes:
        user: Text before and after a user's turn.
        assistant: Text before and after a reply.
        opening: Text before the reply that is to be generated.
        system: Text before and after a system message, or None when it has no turn of its own.
        joined: Text before a system message that begins the first user's turn, and between the two;
            None when the template does not join them.
        default: The system message that the template adds when there is none.
    """

    user: tuple[str, str]
    assistant: tuple[str, str]
    opening: str
    system: tuple[str, str] | None = None
    joined: tuple[str, str] | None = None
    default: str = ""

    @property
    def stop(self) -> str:
        """The text that ends a reply, where it is a single word; otherwise empty."""
        mark = self.assistant[1].strip()
        return "" if any(c.isspace() for c in mark) else mark

    def text(self, messages: Sequence[Message]) -> str:
        """Returns a conversation as the Go template renders it."""
        parts: list[str] = []
        system = next((m["content"] for m in messages if m["role"] == "system"), self.default)
        turns = [m for m in messages if m["role"] != "system"]
        if system and self.system:
            parts += [self.system[0], system, self.system[1]]
        for number, message in enumerate(turns):
            before, after = self.user if message["role"] == "user" else self.assistant
            if number == 0 and system and self.joined:
                before = self.joined[0] + system + self.joined[1]
            parts += [before, message["content"], after]
        return "".join([*parts, self.opening])

    def go(self) -> str:
        """Returns the Go template for Ollama, which provides `.System` and `.Messages`."""
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
            # A range over the messages cannot name the first user's turn: the variable is emptied
            # once the system message is written.
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
    """Returns text as it is written in a Go template inside Ollama's triple quotes."""
    if "{{" in text or "}}" in text or '"' in text or visible_text(text) != text:
        # Go reads JSON's escapes; \x22 keeps three quotes from standing in a row.
        return "{{ " + json_text(text).replace('\\"', "\\x22") + " }}" if text else ""
    return text


def turn_markers(template: str, *, eos: str = "") -> TurnMarkers | None:
    """Returns the markers of a Jinja chat template, or None when it does more than wrap each turn.

    Args:
        template: The Jinja source.
        eos: Text of the end-of-sequence token. The beginning-of-sequence token is left out, since
            runtimes add it themselves.
    """
    try:
        markers = _detect(template, eos)
        return markers if markers and _agrees(markers, template, eos) else None
    except FormatError:
        return None


def _render(template: str, eos: str, *messages: tuple[str, str], opening: bool = True) -> str:
    conversation = [{"role": role, "content": content} for role, content in messages]
    return render(template, conversation, bos="", eos=eos, add_generation_prompt=opening)


def _detect(template: str, eos: str) -> TurnMarkers | None:
    user, reply, again = ("user", _USER), ("assistant", _REPLY), ("user", _SECOND_USER)
    closed = _render(template, eos, user, opening=False)
    opened = _render(template, eos, user)
    if not opened.startswith(closed):
        return None
    opening = opened[len(closed) :]
    chat = _render(template, eos, user, reply, again, opening=False)
    exchange = _render(template, eos, user, reply, opening=False)
    if (
        any(chat.count(mark) != 1 for mark in (_USER, _REPLY, _SECOND_USER))
        or exchange.count(_REPLY) != 1
    ):
        return None
    head, rest = chat.split(_USER)
    between, rest = rest.split(_REPLY)
    second, user_end = rest.split(_SECOND_USER)
    reply_end = exchange.split(_REPLY)[1]
    if not (between.startswith(user_end) and second.startswith(reply_end)):
        return None
    user_turn = (second[len(reply_end) :], user_end)
    reply_turn = (between[len(user_end) :], reply_end)
    if not head.endswith(user_turn[0]):
        return None
    head = head[: len(head) - len(user_turn[0])]
    bare = TurnMarkers(user=user_turn, assistant=reply_turn, opening=opening)
    return _with_system(bare, template, eos, head)


def _with_system(bare: TurnMarkers, template: str, eos: str, head: str) -> TurnMarkers | None:
    """Add the markers of a system message.

    `head` is what the template writes before the first turn without one.
    """
    try:
        chat = _render(template, eos, ("system", _SYSTEM), ("user", _USER), opening=False)
    except FormatError:
        chat = ""  # a template may refuse a system message
    if chat.count(_SYSTEM) != 1 or chat.count(_USER) != 1:
        return bare if not head else None
    before, rest = chat.split(_SYSTEM)
    between = rest.split(_USER)[0]
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


def _agrees(markers: TurnMarkers, template: str, eos: str) -> bool:
    """Whether markers and template render other conversations alike."""
    question, answer = (
        ("user", "What is 2 + 2?\nShow {{ your }} <work>."),
        ("assistant", "It is 4.\n\n```\n2 + 2\n```"),
    )
    doubt, reassurance = ("user", "Sure?"), ("assistant", "Quite.")
    conversations = [
        [question],
        [question, answer, doubt],
        [question, answer, doubt, reassurance, question],
    ]
    if markers.system or markers.joined:
        conversations += [[("system", "Be brief."), *t] for t in conversations]
    return all(
        markers.text([{"role": r, "content": c} for r, c in t]) == _render(template, eos, *t)
        for t in conversations
    )

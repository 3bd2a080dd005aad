"""Text of strangers (names in files, answers of models, what clients send), shown as text.

A medium has one function here, and whatever is shown passes through it: a control character, a
bracket or a quote in a name is shown, and does nothing.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

# Control characters, what turns the direction of text round, what takes no room, halves of pairs.
# The two joiners stay: Persian, Hindi and many emoji are written with them.
_INVISIBLE = (
    "\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"
)
_IN_NAMES = re.compile(f"[{_INVISIBLE}]")
# Running text has lines, and marks of direction that turn nothing round.
_IN_TEXT = re.compile(f"(?![\n\t\u061c\u200e\u200f])[{_INVISIBLE}]")
_LINE_END = re.compile(r"[ \t]*[\n\r]+[ \t]*")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
_EMPHASIS = re.compile(r"[\\`*\[\]~$]|(?<![^\W_])_|_(?![^\W_])")
_ENTITY = re.compile(r"&(?=#?\w+;)")
# What begins a heading, a quotation, a list or a rule.
_BLOCK = re.compile(
    r"^(?=#{1,6}(?:\s|$)|>|[+-](?:\s|$)|=+\s*$|-[-\s]*$)|^(\d{1,9})(?=[.)](?:\s|$))"
)


def visible(text: object) -> str:
    r"""A name, or any text of one line, for a terminal or a log: `\x1b` in place of an escape.

    Args:
        text: What is shown; anything but text as `str` has it.
    """
    return _IN_NAMES.sub(_code, str(text))


def one_line(text: object) -> str:
    """A sentence for a terminal or a log: as `visible`, its lines joined.

    Args:
        text: What is shown; anything but text as `str` has it.
    """
    return visible(_LINE_END.sub(" ", str(text)))


def visible_text(text: str) -> str:
    """Text that may have several lines, for a terminal: as `visible`, but lines and tabs stay.

    Args:
        text: What is shown, whole or in any parts.
    """
    return _IN_TEXT.sub(_code, text)


def html_text(text: object) -> str:
    """Text for HTML and its attributes.

    Args:
        text: What is shown; anything but text as `str` has it.
    """
    return escape(visible_text(str(text)))


def markdown_text(text: object) -> str:
    """A line for Markdown that is read as it stands: no emphasis, link, HTML or formula.

    Args:
        text: What is shown; anything but text as `str` has it.
    """
    line = _EMPHASIS.sub(r"\\\g<0>", visible(text))
    line = _ENTITY.sub("&amp;", line).replace("<", "&lt;")
    return _BLOCK.sub(r"\1\\", line)


def markdown_code(text: object) -> str:
    """A line of code for Markdown, whatever backticks it has.

    Args:
        text: What is shown; anything but text as `str` has it.
    """
    line = visible(text)
    fence = "`" * (_longest_run(line) + 1)
    room = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{room}{line}{room}{fence}"


def markdown_block(text: str, language: str = "") -> str:
    """Lines of code for Markdown, whatever fences they have.

    Args:
        text: The lines.
        language: What they are written in.
    """
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}{language}\n{visible_text(text)}\n{fence}"


def markdown_row(cells: Iterable[str]) -> str:
    """A row of a Markdown table.

    Args:
        cells: What the cells hold, as Markdown.
    """
    return "| " + " | ".join(re.sub(r"[|]", r"\\|", cell) for cell in cells) + " |"


def shell_word(text: object) -> str:
    r"""A word of a command line for people and shells; `$'\n'` where a character is invisible.

    Args:
        text: The word.
    """
    word = str(text)
    if not _IN_NAMES.search(word):
        return shlex.quote(word)
    quoted = re.sub(r"['\\]", r"\\\g<0>", word)
    return "$'" + _IN_NAMES.sub(_shell_code, quoted) + "'"


def shell_path(path: object) -> str:
    """A path of a command line that is no option, whatever it begins with.

    Args:
        path: The path.
    """
    return shell_word(argument(path))


def argument(path: object) -> str:
    """A path as an argument that is no option, whatever it begins with; not quoted yet.

    Args:
        path: The path.
    """
    text = str(path)
    return f"./{text}" if text.startswith("-") else text


def shell_line(words: Iterable[object]) -> str:
    """A command line of these words.

    Args:
        words: The command and its arguments.
    """
    return " ".join(map(shell_word, words))


def json_text(value: Any, *, indent: int | None = 2, ascii_only: bool = False) -> str:
    """JSON that every parser reads and that a terminal shows as it is.

    Args:
        value: What JSON can hold.
        indent: Spaces of a level; None writes one line.
        ascii_only: Whether to escape all but ASCII.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only, allow_nan=False)
    # Outside of strings there is nothing that it could match but the ends of lines.
    return re.sub(rf"(?!\n)[{_INVISIBLE}]", lambda m: json.dumps(m[0])[1:-1], text)


def yaml_text(*documents: Mapping[str, Any], width: int = 80) -> str:
    """YAML documents with their keys in the given order, without anchors.

    Args:
        documents: What they hold.
        width: Columns from which on a text is folded.
    """
    import yaml

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def dump(unicode: bool) -> str:
        return yaml.dump_all(
            documents, Dumper=Plain, sort_keys=False, width=width, allow_unicode=unicode
        )

    text = dump(True)
    return text if not re.search(rf"(?!\n)[{_INVISIBLE}]", text) else dump(False)


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def _code(match: re.Match[str]) -> str:
    number = ord(match[0])
    if match[0] in _SHORT:
        return _SHORT[match[0]]
    return (
        f"\\x{number:02x}"
        if number < 0x100
        else f"\\u{number:04x}"
        if number < 0x10000
        else (f"\\U{number:08x}")
    )


def _shell_code(match: re.Match[str]) -> str:
    number = ord(match[0])
    if 0xDC80 <= number <= 0xDCFF:  # a byte of a file name that is no UTF-8
        return f"\\x{number - 0xDC00:02x}"
    # \x is a byte to a shell, and \u a character.
    return f"\\u{number:04x}" if 0x80 <= number < 0x10000 else _code(match)

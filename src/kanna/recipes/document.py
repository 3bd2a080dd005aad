"""A YAML file as plain values, with the line of each.

Values are those of YAML 1.2: `no` and `on` are texts, `1e-3` is a number, a date is a text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import yaml

from kanna._util.nearest import unreadable
from kanna.errors import SourceError
from kanna.recipes.problems import RecipeError, RecipeLine, RecipeProblem

Value: TypeAlias = "str | int | float | bool | None | list[Value] | dict[str, Value]"
Keys: TypeAlias = "tuple[str | int, ...]"
"""Keys and indexes from the top of a document down to a value."""

MOST_BYTES = 1 << 20
MOST_NODES = 50_000
"""Values of a file, counting what an alias repeats: ten lines of aliases can be a billion."""
MOST_LEVELS = 40
_BOOL, _INT, _FLOAT, _NULL, _MERGE = (
    f"tag:yaml.org,2002:{name}" for name in ("bool", "int", "float", "null", "merge")
)


class _Loader(yaml.SafeLoader):
    """Reads scalars as YAML 1.2 has them."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  # of the base class, replaced as a whole


for _tag, _pattern, _first in (
    (_BOOL, r"true|True|TRUE|false|False|FALSE", "tTfF"),
    (_INT, r"[-+]?[0-9]+", "-+0123456789"),
    (_FLOAT, r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    (_NULL, r"~|null|Null|NULL|", "~nN\0"),
    (_MERGE, r"<<", "<"),
):
    _starts = [*_first.replace("\0", ""), *([""] if "\0" in _first else [])]
    _Loader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), _starts)


@dataclass(slots=True)
class YamlDocument:
    """A file that was read.

    Attributes:
        path: Where it is.
        value: What it holds.
        places: The line of every value, by its keys from the top.
        text: As it is written.
    """

    path: Path
    value: Value
    places: dict[Keys, RecipeLine]
    text: str

    def place(self, *keys: str | int) -> RecipeLine:
        """The line of a value, or of the nearest one above that is there."""
        for length in range(len(keys), -1, -1):
            if (place := self.places.get(keys[:length])) is not None:
                return place
        return RecipeLine(self.path, 1)


def read(path: Path) -> YamlDocument:
    """Read a YAML file.

    Raises:
        SourceError: It cannot be read as text.
        RecipeError: It is no YAML, or more of it than a recipe may be.
    """
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise SourceError(f"{path} has {size} bytes", expected=f"at most {MOST_BYTES}")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise SourceError(f"{path} is no text in UTF-8", expected="a recipe in YAML") from None
    except OSError as error:
        raise unreadable(path, error, SourceError, todo="check the path") from None
    return parse(text, path)


def parse(text: str, path: Path) -> YamlDocument:
    """Read YAML text; `path` is what messages call it. Raises RecipeError."""
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        problem = f"this is no YAML: {error.problem or error.context}"
        raise RecipeError([RecipeProblem(RecipeLine(path, line), problem)]) from None
    except (yaml.YAMLError, RecursionError) as error:
        problem = f"this is no YAML: {type(error).__name__}"
        raise RecipeError([RecipeProblem(RecipeLine(path, 1), problem)]) from None
    reader = _Reader(path)
    value = None if node is None else reader.read(node, ())
    return YamlDocument(path, value, reader.places, text)


@dataclass(slots=True)
class _Reader:
    path: Path
    places: dict[Keys, RecipeLine] = field(default_factory=dict[Keys, RecipeLine])
    nodes: int = 0

    def fail(self, node: yaml.Node, text: str, expected: str = "") -> RecipeError:
        return RecipeError(
            [RecipeProblem(RecipeLine(self.path, node.start_mark.line + 1), text, expected)]
        )

    def read(self, node: yaml.Node, keys: Keys) -> Value:
        self.nodes += 1
        if self.nodes > MOST_NODES or len(keys) > MOST_LEVELS:
            raise self.fail(
                node, "the file holds too much", f"{MOST_NODES} values in {MOST_LEVELS} levels"
            )
        self.places.setdefault(keys, RecipeLine(self.path, node.start_mark.line + 1))
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*keys, i)) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, keys)
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, keys: Keys) -> dict[str, Value]:
        values: dict[str, Value] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                raise self.fail(key, "a key is no plain name", "NAME: VALUE")
            name = str(key.value)
            if name in values:
                first = self.places[(*keys, name)].line
                raise self.fail(key, f"{name} is here twice, first in line {first}")
            self.places[(*keys, name)] = RecipeLine(self.path, key.start_mark.line + 1)
            values[name] = self.read(value, (*keys, name))
        return values

    def _scalar(self, node: yaml.Node) -> Value:
        text, tag = str(node.value), str(node.tag)
        if tag == _NULL:
            return None
        if tag == _BOOL:
            return text.lower() == "true"
        if tag == _INT and len(text) <= 300:
            return int(text)
        if tag == _FLOAT and len(text) <= 300:
            return float(text)
        if tag in (_INT, _FLOAT):
            raise self.fail(node, f"a number of {len(text)} digits", "fewer digits")
        if tag != "tag:yaml.org,2002:str":
            raise self.fail(node, f"a value has the tag {tag}", "texts, numbers, true or false")
        return text

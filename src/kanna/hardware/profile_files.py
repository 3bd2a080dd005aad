"""Profiles in YAML, of devices and of execution providers: figures with their sources."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml

from kanna._util import typed
from kanna._util.nearest import unreadable
from kanna._util.typed import FieldKind, TypedObject
from kanna.errors import FormatError
from kanna.hardware.figures import BASES, Figure

T = TypeVar("T")

MOST_BYTES = 1 << 16
TEXT = typed.text(2000, 1)
_BAD_TAGS = (AttributeError, TypeError)
_FIGURE = ("value", "basis", "source")


class _ProfileLoader(yaml.SafeLoader):
    """YAML whose mappings have every key once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise yaml.constructor.ConstructorError(
                None, None, f"{sorted(twice)[0]} is here twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


def profiles_in(ours: Path, own: Path) -> dict[str, Path]:
    """Profiles by name; one of the user takes the place of ours of the same name.

    Args:
        ours: The folder of the package.
        own: The user's, which need not be there.
    """
    return {path.stem: path for folder in (ours, own) for path in sorted(folder.glob("*.yaml"))}


@dataclass(frozen=True, slots=True)
class ProfilePart:
    """An object of a profile.

    Attributes:
        fields: What it holds.
        todo: What errors tell the user to do.
    """

    fields: TypedObject
    todo: str

    @classmethod
    def of(cls, fields: TypedObject, known: tuple[str, ...], todo: str) -> ProfilePart:
        """The part, once its names are known; FormatError with the nearest one otherwise."""
        for name in fields.values:
            if name not in known:
                close = get_close_matches(str(name), known, 1)
                raise FormatError(
                    f"{fields.file} has {fields.inside}{name}, which no profile has",
                    expected=close[0] if close else ", ".join(known),
                    todo=todo,
                )
        return cls(fields, todo)

    def figure(self, name: str, kind: FieldKind[T]) -> Figure[T]:
        """A figure that must be there, with its source."""
        if name not in self.fields:
            raise FormatError(
                f"{self.fields.file} has no {self.fields.inside}{name}",
                expected=f"value ({kind.words}), basis and source",
                todo=self.todo,
            )
        part = ProfilePart.of(self.fields.part(name), _FIGURE, self.todo).fields
        value = part.need("value", kind)
        basis = part.need("basis", TEXT)
        if basis not in BASES:
            raise FormatError(
                f"{part.file} has {part.inside}basis = {basis}",
                expected=" or ".join(BASES),
                todo=self.todo,
            )
        return Figure(value, basis, part.need("source", TEXT))

    def optional(self, name: str, kind: FieldKind[T]) -> Figure[T] | None:
        """A figure that need not be there."""
        return self.figure(name, kind) if name in self.fields else None


def load(path: Path, todo: str) -> TypedObject:
    """What a profile holds.

    Raises:
        FormatError: It is no YAML, or too long.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise FormatError(f"{path} has {path.stat().st_size} bytes", expected="64 kB at most")
        value = _ProfileLoader(path.read_text(encoding="utf-8")).get_single_data()
    except UnicodeDecodeError:
        raise FormatError(f"{path} is no text in UTF-8", expected="a profile in YAML") from None
    # Values with a tag of their own that are none fail in PyYAML with whatever comes.
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, *_BAD_TAGS) as error:
        problem = " ".join(str(error).split())[:200]
        raise FormatError(
            f"{path} is no YAML: {problem}", expected="a profile", todo=todo
        ) from None
    except OSError as error:
        raise unreadable(path, error, FormatError, todo="check the path") from None
    return TypedObject.of(value, str(path), todo)

"""What a model for vectors was trained to find before a text, by name, as sentence-transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kanna._util.typed import MOST_TEXT, TypedObject, read, shown, text
from kanna.errors import FormatError, UsageError
from kanna.formats import gguf
from kanna.formats.text_files import read_object
from kanna.model import MetaValue, ValueType, array, string

FILE = "config_sentence_transformers.json"
NAMES, TEXTS, DEFAULT = (
    f"sentence_transformers.prompts.{k}" for k in ("names", "texts", "default")
)
"""Keys of a GGUF; llama.cpp reads none of them."""
_PROMPT = text(MOST_TEXT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """The prompts of a model.

    Attributes:
        texts: Text by name.
        default: Name of the one that is taken where none is named; "" for none.
    """

    texts: Mapping[str, str] = field(default_factory=dict[str, str])
    default: str = ""

    def text(self, name: str | None) -> str:
        """What goes before a text.

        Args:
            name: Which of them; None: the default; "": nothing.

        Raises:
            UsageError: There is none of this name.
        """
        wanted = self.default if name is None else name
        if not wanted:
            return ""
        if wanted not in self.texts:
            known = ", ".join(map(shown, self.texts)) or "none: the model came without prompts"
            raise UsageError(f"no prompt is called {shown(wanted)}", expected=known)
        return self.texts[wanted]

    def metadata(self) -> dict[str, MetaValue]:
        """The keys of a GGUF."""
        if not self.texts:
            return {}
        keys = {
            NAMES: array(list(self.texts), ValueType.STR),
            TEXTS: array(list(self.texts.values()), ValueType.STR),
        }
        return keys | ({DEFAULT: string(self.default)} if self.default else {})

    def file(self) -> bytes:
        """The file of sentence-transformers."""
        values = {"prompts": dict(self.texts), "default_prompt_name": self.default or None}
        return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def of_values(values: TypedObject) -> Prompts:
    """The prompts of a file of sentence-transformers; FormatError where they are no texts."""
    given = values.values.get("prompts") or {}
    if not isinstance(given, Mapping):
        raise FormatError(f"{FILE} has prompts = {shown(given)}", expected="an object of texts")
    texts = {
        str(name): read(value, _PROMPT, f"prompts.{name}", FILE) for name, value in given.items()
    }
    default = read(values.values.get("default_prompt_name") or "", _PROMPT, "default", FILE)
    if default and default not in texts:
        raise FormatError(
            f"{FILE} has default_prompt_name = {shown(default)}",
            expected=", ".join(map(shown, texts)) or "null, for there are no prompts",
            todo="fetch the file again from where the model was published",
        )
    return Prompts(texts=texts, default=default)


def of_metadata(metadata: Mapping[str, MetaValue]) -> Prompts:
    """The prompts of a GGUF; FormatError where names and texts do not agree."""
    names, texts = (
        [str(item) for item in metadata[key].value] if key in metadata else []
        for key in (NAMES, TEXTS)
    )
    default = str(metadata[DEFAULT].value) if DEFAULT in metadata else ""
    if len(names) != len(texts) or len(set(names)) != len(names):
        raise FormatError(
            f"the GGUF has {len(names)} names of prompts and {len(texts)} prompts",
            expected="a name of its own for each",
            todo="convert the model again",
        )
    if default and default not in names:
        raise FormatError(f"the GGUF has no prompt {shown(default)}, its default")
    return Prompts(texts=dict(zip(names, texts, strict=True)), default=default)


def of_artefact(path: Path) -> Prompts:
    """The prompts of a GGUF or of a folder; none where it has none."""
    if path.is_dir():
        return of_values(read_object(path / FILE))
    return of_metadata(gguf.read(path).metadata) if gguf.is_gguf(path) else Prompts()

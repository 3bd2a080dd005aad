"""Write docs/tokenizers.md from the code: `python tools/tokenizer_fields.py`. A test compares."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from kanna import conversion
from kanna.tokenizer.fields import TABLES, Field
from kanna.tokenizer.files import NAMES

PAGE = Path(__file__).parent.parent / "docs" / "tokenizers.md"
HEAD = """\
# Tokenizers, field by field

Every field of a tokenizer's files is carried into what is written, changes nothing there, is named
in a note, or is a reason to refuse the conversion. A field that is not in these tables is named in
a note. This page is made from the code by `make docs`.

Before a GGUF is written, llama.cpp reads its vocabulary, and the ids of a fixed set of texts are
compared with those of the source's own library; where transformers is installed, so are the
rendered chat template and the special tokens. Other ids for plain text are refused, other
differences are named in a note. `kanna verify` and `kanna evaluate` take their token ids and
templates from the same libraries.

Folders keep `tokenizer.json`, and their runtimes read it with libraries of their own. Before a
folder has its name, the ids of onnxruntime-genai's tokenizer (ONNX), or of transformers' (MLX,
safetensors; mlx-lm takes the same), are compared with those of `tokenizer.json` without the tokens
that frame a text where the library adds none, and a difference is named in a note, unless it is
beyond plain text and transformers reads the source so too. What kanna runs itself goes by
`tokenizer.json`. One that is made of a GGUF is compared with llama.cpp: other ids
for plain text are refused.
"""
_PARTS = {
    "": "fields of the file",
    "model": "`model`",
    "added_tokens": "`added_tokens`, each of them",
    "normalizer": "`normalizer`, each step",
    "pre_tokenizer": "`pre_tokenizer`, each step",
    "post_processor": "`post_processor`, each step",
    "decoder": "`decoder`, each step",
}


def page() -> str:
    """The text of docs/tokenizers.md."""
    return "\n".join([HEAD, *_formats(), *_tables()])


def _formats() -> list[str]:
    lines = ["## By format", "", "| format | from a Hugging Face source |", "| --- | --- |"]
    for name in conversion.names():
        kept = conversion.get(name).keeps_tokenizer_files
        what = "the files below, as they are" if kept else "metadata, by the tables below"
        lines.append(f"| `{name}` | {what} |")
    names = ", ".join(f"`{n}`" for n in NAMES)
    folders = "`additional_chat_templates/`"
    listed = textwrap.fill(f"Files that folders keep: {names}, {folders}.", 98)
    return [*lines, "", listed, ""]


def _tables() -> list[str]:
    lines = ["## In a GGUF", ""]
    for (file, part), table in TABLES.items():
        lines += [f"### {file}: {_PARTS[part]}", "", "| field | what becomes of it |"]
        lines += ["| --- | --- |", *_rows(table), ""]
    return lines


def _rows(table: Sequence[Field]) -> list[str]:
    """One row for all fields with one story."""
    names: dict[str, list[str]] = defaultdict(list)
    for field in table:
        fate = f"{field.fate.value}: " if field.fate is not None else ""
        names[f"{fate}{field.how}"].append(f"`{field.name}`")
    return [f"| {', '.join(own)} | {how} |" for how, own in names.items()]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

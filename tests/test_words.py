"""Words that newcomers do not know stay out of help, pages and reports (docs/glossary.md)."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from report.test_report import data

from kanna import report
from kanna.cli.main import cli

__all__ = ["data"]

ROOT = Path(__file__).parent.parent
GLOSSARY = ROOT / "docs" / "glossary.md"
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs" / "commands").glob("*.md")),
    *(ROOT / "docs" / f"{name}.md" for name in ("serve", "deploy", "models", "page")),
]

FORBIDDEN = {
    r"sites?": "inputs of a matrix",
    r"pieces?": "parts, or tokens",
    r"proved|provable": "intact, checked",
    r"(?i:artefacts?)": "file, folder or model",
    r"(?<!`)floor(?!`)": "runtime rounding",
    r"top tokens?": "next token",
    r"rivals?": "the preset of that size",
}


def violations(text: str) -> list[str]:
    """Forbidden words of a text, with what to say instead; names in capitals are arguments."""
    return [
        f"{match[0]!r}: say {instead}"
        for word, instead in FORBIDDEN.items()
        for match in re.finditer(rf"(?<![-_.`])\b(?:{word})\b(?![-_.`=])", text)
    ]


def helps(command: click.Command, name: str = "kanna") -> Iterator[tuple[str, str]]:
    """The help of every command, by name."""
    context = click.Context(command, info_name=name)
    yield name, command.get_help(context)
    if isinstance(command, click.Group):
        for one in command.list_commands(context):
            if (inner := command.get_command(context, one)) is not None:
                yield from helps(inner, f"{name} {one}")


def test_help_is_in_plain_words() -> None:
    wrong = {name: bad for name, text in helps(cli) if (bad := violations(text))}
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_are_in_plain_words(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    wrong = violations(re.sub(r"`[^`]*`|\]\([^)]*\)", "``", text))
    assert not wrong


def sentences(tree: ast.AST) -> Iterator[str]:
    """Strings of a module that hold several words and are no docstrings."""
    docstrings = {n.value for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    constants = (n for n in ast.walk(tree) if isinstance(n, ast.Constant) and n not in docstrings)
    for node in constants:
        if isinstance(node.value, str) and " " in node.value:
            yield node.value


def test_messages_name_files_and_models() -> None:
    for path in sorted((ROOT / "src").rglob("*.py")):
        if "artefact" not in (code := path.read_text(encoding="utf-8")).lower():
            continue
        for text in sentences(ast.parse(code)):
            assert not re.search(r"\bartefacts?\b", text, re.IGNORECASE), f"{path.name}: {text!r}"


def descriptions(value: object) -> Iterator[str]:
    """Every description of a JSON Schema."""
    if isinstance(value, dict):
        if isinstance(text := value.get("description"), str):
            yield text
        for inner in value.values():
            yield from descriptions(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from descriptions(inner)


def test_the_schema_of_recipes_names_files_and_models() -> None:
    schema = json.loads((ROOT / "docs" / "recipe.schema.json").read_text(encoding="utf-8"))
    texts = [re.sub(r"`[^`]*`", "``", text) for text in descriptions(schema)]
    assert texts and not [text for text in texts if re.search(r"\bartefacts?\b", text, re.I)]


def test_reports_and_cards_are_in_plain_words(data: dict[str, object]) -> None:
    page = re.sub(r"<style>.*?</style>|<[^>]*>", " ", report.html_page(data), flags=re.DOTALL)
    for text in (page, report.model_card(data), report.model_card(data, "Q4_K_M")):
        assert not violations(text)


def test_readers_find_the_glossary() -> None:
    assert "docs/glossary.md" in (ROOT / "README.md").read_text(encoding="utf-8")
    words = GLOSSARY.read_text(encoding="utf-8").lower()
    for word in ("next-token agreement", "closeness", "kl divergence", "second moment", "intact"):
        assert word in words

"""Words that newcomers do not know stay out of help, pages and reports (docs/glossary.md)."""

from __future__ import annotations

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
    r"artefacts?": "file, folder or model",
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


def test_reports_and_cards_are_in_plain_words(data: dict[str, object]) -> None:
    page = re.sub(r"<style>.*?</style>|<[^>]*>", " ", report.html_page(data), flags=re.DOTALL)
    for text in (page, report.model_card(data), report.model_card(data, "Q4_K_M")):
        assert not violations(text)


def test_readers_find_the_glossary() -> None:
    assert "docs/glossary.md" in (ROOT / "README.md").read_text(encoding="utf-8")
    words = GLOSSARY.read_text(encoding="utf-8").lower()
    for word in ("next-token agreement", "closeness", "kl divergence", "second moment", "intact"):
        assert word in words

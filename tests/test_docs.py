"""The documents and the command line tell the same story."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from kanna.cli.main import cli
from kanna.plan.file import Plan

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs" / "commands").glob("*.md"))
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CONTEXT = click.Context(cli)


def options(command: click.Command) -> set[str]:
    """Options of a command, and of those in it."""
    own = {
        o
        for p in command.params
        if isinstance(p, click.Option)
        for o in (*p.opts, *p.secondary_opts)
    }
    inner = command.commands.values() if isinstance(command, click.Group) else ()
    return own.union(*map(options, inner))


def named(words: list[str]) -> click.Command:
    """The command that words begin with."""
    one = command(words[0])
    return one.commands[words[1]] if isinstance(one, click.Group) and words[1:] else one


def command(name: str) -> click.Command:
    found = cli.get_command(CONTEXT, name)
    assert found is not None, f"there is no command {name}"
    return found


def code_lines(path: Path) -> Iterator[str]:
    """Command lines of the fenced blocks, without comments, continuation lines joined."""
    for block in re.findall(
        r"^```(?:console|sh|bash)?\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S
    ):
        for line in block.replace("\\\n", " ").splitlines():
            yield line.split("  #")[0].strip()


def kanna_calls(path: Path) -> Iterator[list[str]]:
    """Words after `kanna` of every call in a document's code, and in `inline code`."""
    inline = re.findall(r"`(kanna [a-z]+[^`\n]*)`", path.read_text(encoding="utf-8"))
    for line in [*code_lines(path), *inline]:
        for part in re.split(r"\s*\|\s*|\s+&&\s+", line):
            if part.startswith("kanna "):
                yield shlex.split(part)[1:]


def test_every_command_has_a_page() -> None:
    assert {p.stem for p in PAGES} == set(cli.list_commands(CONTEXT))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_page_documents_every_option_and_no_other(page: Path) -> None:
    listed = set(
        re.findall(
            r"`(--?[a-z][a-z-]*)`", "".join(re.findall(r"(?m)^\| `-.*?\|", page.read_text()))
        )
    )
    assert listed == options(command(page.stem))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_in_documents_exist(path: Path) -> None:
    for words in kanna_calls(path):
        if words[0].startswith("-"):
            continue
        known = options(named(words)) | {"-h", "--help"}
        used = {w.split("=")[0] for w in words[1:] if re.match(r"--?[a-zA-Z]", w)}
        assert used <= known, f"{path.name}: kanna {' '.join(words)} uses {used - known}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        assert (path.parent / target).exists(), f"{path.name} links to {target}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_plan_files_in_documents_load(path: Path) -> None:
    for block in re.findall(r"^```json\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S):
        found = json.loads(block)
        if "rules" in found:
            Plan.model_validate(found)


def test_help_names_every_command_once() -> None:
    names = cli.list_commands(CONTEXT)
    assert len(names) == len(set(names)) >= 10
    for name in names:
        assert command(name).get_short_help_str(200), f"{name} has no help"

"""The documentation as a site: built strictly, every link followed, nothing fetched elsewhere."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click
import pytest
from helpers import needs

import kanna

ROOT = Path(__file__).parent.parent
LOADS = {"script": "src", "img": "src", "link": "href", "iframe": "src"}


class Page(HTMLParser):
    """Links, anchors and loaded files of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if "id" in values:
            self.anchors.add(values["id"])
        if address := values.get(LOADS.get(tag, ""), ""):
            self.loaded.append(address)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (find_spec("material") and find_spec("mkdocstrings")):
        needs.absent("needs mkdocs-material and mkdocstrings", "the extra docs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}


def test_every_page_is_reached_from_the_first(site: Path, pages: dict[Path, Page]) -> None:
    """The navigation of the first page names every page that was written."""
    links = {
        (site / unquote(urlsplit(link).path)).resolve() for link in pages[site / "index.html"].links
    }
    written = {
        (site / p.relative_to(ROOT / "docs")).with_suffix(".html")
        for p in (ROOT / "docs").rglob("*.md")
    }
    written = {p.with_name("index.html") if p.name == "README.html" else p for p in written}
    assert {p.resolve() for p in written} <= links


def test_every_link_leads_somewhere(site: Path, pages: dict[Path, Page]) -> None:
    broken: list[str] = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            anchor = unquote(parts.fragment)
            known = pages[target].anchors if target in pages else set[str]()
            if not target.exists() or (anchor and anchor not in known):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert not broken


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        outside = [a for a in page.loaded if urlsplit(a).netloc]
        assert not outside, path
    assert (site / "search" / "search_index.json").stat().st_size > 100_000


def test_every_function_is_in_the_reference(pages: dict[Path, Page], site: Path) -> None:
    functions = [n for n in kanna.__all__ if inspect.isfunction(getattr(kanna, n))]
    anchors = pages[site / "api.html"].anchors
    missing = [n for n in functions if not any(a.endswith(f".{n}") for a in anchors)]
    assert not missing, "add them to docs/api.md"


@pytest.mark.parametrize(
    "reader", ["laptop", "raspberry-pi", "mac", "windows", "phone", "fine-tune"]
)
def test_commands_of_tutorials_exist(reader: str) -> None:
    """Every `kanna` line has a command and options that the command line knows."""
    from kanna.cli.main import cli

    text = (ROOT / "docs" / "tutorials" / f"{reader}.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\s*(?:kanna) (.+?)(?:\s+#.*)?$", text, re.MULTILINE)
    assert len(lines) >= 3
    for line in lines:
        words = line.split()
        command = cli.get_command(click.Context(cli), words[0])
        assert command, line
        options = {name for parameter in command.params for name in parameter.opts}
        options |= {name for parameter in command.params for name in parameter.secondary_opts}
        assert {w for w in words if w.startswith("-")} <= options, line

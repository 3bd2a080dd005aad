"""Names and answers of strangers, in every medium they are shown in: text that does nothing."""

from __future__ import annotations

import html.parser
import io
import json
import re
import shlex
import subprocess
import sys

import pytest
import yaml
from rich.text import Text

from kanna import escaping
from kanna._util.results import ResultTable
from kanna.cli.screen import Rows, Screen
from kanna.errors import SourceError
from kanna.packaging.targets import docker, ollama, systemd
from kanna.serving.metrics import Metrics

NAMES = {
    "title": "x\x1b]0;PWNED\x07",
    "colour": "\x1b[31mred",
    "c1": "a\x9b31mb\x85",
    "link": "\x1b]8;;http://evil\x1b\\here\x1b]8;;\x1b\\",
    "bidi": "gpj\u202eexe.\u2066x",
    "invisible": "a\u200b\u2060\ufeff\U000e0041b",
    "newline": "model\nError: done\r\tx\u2028y",
    "half": "a\udc9bb",
    "markup": "a[/nope][bold]b[/bold][link=http://evil]c",
    "emoji": ":smile:",
    "html": "<script>alert(1)</script>&amp;\" onload='x'",
    "markdown": "a|b `c` **d** [e](http://evil) ```sh <img src=x> _f_ $g$",
    "shell": "$(id); `id` && 'x' \"y\" \\ {{ .Values }} ${HOME} %h",
    "option": "--rm -rf",
    "yaml": "- a: &b *c #d\n---",
    "heading": "# not a heading",
    "list": "1. not a list",
    "quotes": 'a"""b"',
}
ODD = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
EVERY = pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)


def _drawn(*things: object) -> str:
    screen = Screen(width=400)
    screen.file = io.StringIO()
    for thing in things:
        screen.print(thing)
    return screen.file.getvalue()


@EVERY
def test_a_terminal_shows_it_on_its_line(name: str) -> None:
    rows = Rows("name", "second")
    rows.add_row(name, Text(name))
    for shown in (_drawn(name), _drawn(rows)):
        assert not ODD.search(shown)
        assert "\nError: done" not in _drawn(name)
    plain = re.sub(r"[\n\t].*", "", name, flags=re.DOTALL)
    assert ODD.search(plain) or plain in _drawn(name)
    assert not ODD.search(escaping.visible_text(name).replace("\t", ""))


@EVERY
def test_an_error_is_a_line_each(name: str) -> None:
    error = SourceError(f"no {name} here", expected=name, todo=name)
    for text in (error.found, error.expected, error.todo):
        assert not ODD.search(text) and "\n" not in text
    assert len(str(error).splitlines()) == 3


class _Read(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text, self.attributes = "", list[tuple[str, str | None]]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


@EVERY
def test_a_page_shows_it(name: str) -> None:
    page = _Read()
    page.feed(f'<p title="{escaping.html_text(name)}">{escaping.html_text(name)}</p>')
    shown = escaping.visible_text(name)
    assert (page.tags, page.text, page.attributes) == (["p"], shown, [("title", shown)])
    assert not ODD.search(ResultTable(columns=("a",), rows=[(name,)]).html().replace("\t", ""))


@EVERY
def test_json_holds_what_it_was_and_shows_no_control(name: str) -> None:
    for ascii_only in (True, False):
        text = escaping.json_text({name: [name]}, ascii_only=ascii_only)
        assert json.loads(text) == {name: [name]} and not ODD.search(text)


@EVERY
def test_yaml_holds_what_it_was(name: str) -> None:
    if "\udc9b" in name:
        name = escaping.visible(name)  # no YAML holds half a character
    text = escaping.yaml_text({"name": name}, {"second": name})
    assert list(yaml.safe_load_all(text)) == [{"name": name}, {"second": name}]
    assert not ODD.search(text)


@EVERY
def test_a_shell_reads_one_word(name: str) -> None:
    word = escaping.shell_path(name)
    assert not ODD.search(word) and "\n" not in word and not word.startswith("-")
    done = subprocess.run(
        ["bash", "-c", f"printf %s {word}"], capture_output=True, env={"LC_ALL": "C.UTF-8"}
    )
    wanted = (f"./{name}" if name.startswith("-") else name).encode("utf-8", "surrogateescape")
    assert (done.stdout, done.stderr) == (wanted, b"")


@EVERY
def test_markdown_shows_it(name: str) -> None:
    from markdown_it import MarkdownIt

    read = MarkdownIt("commonmark").enable("table")
    title = read.render(f"# {escaping.markdown_text(name)}")
    page = _Read()
    page.feed(title)
    assert page.tags == ["h1"]
    assert page.text.strip() == " ".join(escaping.visible(name).split("\n")).strip()
    cells = [escaping.markdown_text(name), escaping.markdown_code(name)]
    table = _Read()
    table.feed(read.render(f"| a | b |\n|---|---|\n{escaping.markdown_row(cells)}\n"))
    assert (table.tags.count("td"), table.tags.count("tr")) == (2, 2)
    assert not {"img", "script", "a", "strong", "em"} & set(table.tags)
    block = _Read()
    block.feed(read.render(f"{escaping.markdown_block(name)}\n\nafter"))
    assert block.tags == ["pre", "code", "p"]


@EVERY
def test_files_of_a_package_hold_one_line(name: str) -> None:
    label = docker._quoted(name)  # pyright: ignore[reportPrivateUsage]
    assert not ODD.search(label) and "\n" not in label
    assert not re.search(r"(?<!\\)(\\\\)*\$", label) and not re.search(r'[^\\](\\\\)*"', label[:-1])
    unit = systemd._text(name)  # pyright: ignore[reportPrivateUsage]
    assert not ODD.search(unit) and "\n" not in unit and "%" not in unit.replace("%%", "")
    words = systemd._words(["/bin/x", name])  # pyright: ignore[reportPrivateUsage]
    assert not ODD.search(words) and "\n" not in words
    block = ollama._block(name)  # pyright: ignore[reportPrivateUsage]
    assert block.count('"""') == 2 and not block[:-3].endswith('"')


@EVERY
def test_labels_of_metrics_hold_no_control(name: str) -> None:
    metrics = Metrics()
    metrics.count_restart(name, "generate")
    assert not ODD.search(metrics.exposition().decode())


@pytest.mark.parametrize(
    "markdown", ["tests", "a_b", "Q4_K_M", "x.gguf", "50 %", "a (b)", "0.1.0", "-0.3"]
)
def test_what_is_harmless_stays(markdown: str) -> None:
    assert escaping.markdown_text(markdown) == markdown
    assert escaping.shell_line(["kanna", markdown]) == shlex.join(["kanna", markdown])
    joined = "नमस्ते \u200d می\u200cخواهم 日本語 –"
    assert escaping.visible(joined) == joined


def test_an_answer_is_text_in_a_terminal_and_raw_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    from kanna.cli import streams

    answer = "a\x1b[2Jb\n\tc"
    assert streams.for_stdout(answer) == answer
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert streams.for_stdout(answer) == "a\\x1b[2Jb\n\tc"

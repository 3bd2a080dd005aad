"""`kanna bug-report`: what a report of a fault needs, as text to paste."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kanna.cli import options
from kanna.cli.options import command
from kanna.escaping import markdown_block, markdown_code, markdown_text

if TYPE_CHECKING:
    from kanna.cli.ui import Terminal

_PACKAGES = (
    "gguf",
    "huggingface_hub",
    "mlx",
    "mlx-lm",
    "numpy",
    "onnxruntime",
    "onnxruntime-genai",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
    "llama-cpp-python",
    "xllamacpp",
)


@command("bug-report")
@click.option("-o", "--output", "out", type=options.FILE, help="File to write. [default: print it]")
def bug_report_command(terminal: Terminal, out: Path | None) -> None:
    """Write what a report of a fault needs: versions, hardware, runtimes, the last error.

    Keys, tokens and the path of your home folder are left out; nothing is sent anywhere. Read it
    before you pass it on.
    """
    from kanna.errors import OutputError

    data = collect()
    text = as_markdown(data)
    if out is not None:
        if out.exists():
            raise OutputError(f"{out} exists", todo="choose another name, or remove it")
        out.write_text(text, encoding="utf-8")
        terminal.done(f"Wrote {out}: read it before you pass it on.")
        if not terminal.settings.json:
            return
    terminal.result(data, lambda screen, _: screen.out(text, end="", highlight=False))


def collect() -> dict[str, Any]:
    """Versions, what `kanna doctor` sees, and the last error."""
    from kanna import __version__
    from kanna.cli.config import files
    from kanna.cli.last_error import last, redacted
    from kanna.diagnosis import doctor

    state = doctor()
    return {
        "versions": {
            "kanna": __version__,
            "Python": sys.version.split()[0],
            "system": platform.platform(),
            **{name: number for name in _PACKAGES if (number := _version(name))},
        },
        "doctor": {
            section["title"]: {str(k): redacted(str(v)) for k, v in section["facts"]}
            for section in state.sections
        },
        "advice": [redacted(one.why) for one in state.advice],
        "settings": [redacted(str(path)) for path in files()],
        "last_error": last(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def as_markdown(data: dict[str, Any]) -> str:
    """The report as it is pasted into an issue."""
    lines = ["## What happened", "", "(what you did, what you expected, what came)", ""]
    for title, facts in {"Versions": data["versions"], **data["doctor"]}.items():
        lines += [
            f"## {title}",
            "",
            *(f"- {markdown_text(k)}: {markdown_text(v)}" for k, v in facts.items() if v),
            "",
        ]
    if data["settings"]:
        lines += ["## Settings", "", *(f"- {markdown_text(path)}" for path in data["settings"]), ""]
    error = data["last_error"]
    lines += ["## Last error", ""]
    if error is None:
        return "\n".join([*lines, "none is kept", ""])
    command = markdown_code(f"kanna {error['command']}")
    trace = markdown_block(error["traceback"].strip())
    return "\n".join([*lines, f"{command}, {error['time']}", "", trace, ""])


COMMAND = bug_report_command

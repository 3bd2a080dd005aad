"""The verb `bug_report`: what a report of a fault needs, as text to paste."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kanna._util import last_error
from kanna._util.folders import settings_files
from kanna._util.results import Result, ResultTable
from kanna.diagnosis import doctor
from kanna.errors import OutputError
from kanna.escaping import markdown_block, markdown_code, markdown_text

__all__ = ["BugReport", "bug_report"]

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


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class BugReport(Result):
    """What a report of a fault needs, without keys, tokens and the path of the home folder.

    Attributes:
        versions: Of kanna, Python, the system and the packages that kanna works with.
        doctor: What `kanna.doctor` sees, a table per section.
        advice: What could be better here.
        settings: Files with defaults of options.
        last_error: The error that was kept last, or None.
    """

    versions: Mapping[str, str]
    doctor: Mapping[str, Mapping[str, str]]
    advice: Sequence[str]
    settings: Sequence[str]
    last_error: Mapping[str, Any] | None

    @property
    def text(self) -> str:
        """The report as Markdown, to paste into an issue."""
        lines = ["## What happened", "", "(what you did, what you expected, what came)", ""]
        for title, facts in {"Versions": self.versions, **self.doctor}.items():
            lines += [
                f"## {title}",
                "",
                *(f"- {markdown_text(k)}: {markdown_text(v)}" for k, v in facts.items() if v),
                "",
            ]
        if self.settings:
            paths = [f"- {markdown_text(path)}" for path in self.settings]
            lines += ["## Settings", "", *paths, ""]
        lines += ["## Last error", ""]
        error = self.last_error
        if error is None:
            return "\n".join([*lines, "none is kept", ""])
        command = markdown_code(f"kanna {error['command']}")
        trace = markdown_block(error["traceback"].strip())
        return "\n".join([*lines, f"{command}, {error['time']}", "", trace, ""])

    def headline(self) -> str:
        """The version, and the last error."""
        error = self.last_error
        last = f"last error: {error['message']}" if error else "no error is kept"
        return f"kanna {self.versions['kanna']}; {last}"

    def tables(self) -> Sequence[ResultTable]:
        """A table per section."""
        sections = {"Versions": self.versions, **self.doctor}
        return [
            ResultTable(columns=("", ""), rows=list(facts.items()), title=title)
            for title, facts in sections.items()
        ]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON has it."""
        return asdict(self)


def bug_report(*, out: str | Path | None = None) -> BugReport:
    """Collect what a report of a fault needs: versions, hardware, runtimes, the last error.

    The last error is that of the command line: in Python the exception is yours. Keys, tokens and
    the path of your home folder are left out, and nothing is sent anywhere.

    Args:
        out: File to write the report to, as Markdown; None: none.

    Raises:
        OutputError: `out` exists or cannot be written.
    """
    from kanna import __version__

    state = doctor()
    redacted = last_error.redacted
    report = BugReport(
        versions={
            "kanna": __version__,
            "Python": sys.version.split()[0],
            "system": platform.platform(),
            **{name: number for name in _PACKAGES if (number := _version(name))},
        },
        doctor={
            section["title"]: {str(k): redacted(str(v)) for k, v in section["facts"]}
            for section in state.sections
        },
        advice=[redacted(one.why) for one in state.advice],
        settings=[redacted(str(path)) for path in settings_files()],
        last_error=last_error.last(),
    )
    if out is not None:
        _write(Path(out), report.text)
    return report


def _write(path: Path, text: str) -> None:
    """Write a new file; raises OutputError where it exists or cannot be written."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise OutputError(f"{path} exists", todo="choose another name, or remove it") from None
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""

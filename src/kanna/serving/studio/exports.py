"""The same job elsewhere: as a call of Python, and as a line for a shell."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanna import formats
from kanna.escaping import argument, shell_line
from kanna.serving.studio.jobs import StudioJob, model_name


@dataclass(frozen=True, slots=True, kw_only=True)
class VerbCall:
    """A call of a public verb.

    Attributes:
        verb: Its name in `kanna`.
        source: Its first argument.
        out: Where it writes.
        options: Everything else, by name.
    """

    verb: str
    source: str
    out: str
    options: dict[str, Any]

    def command(self) -> str:
        """The line for a shell."""
        words = ["kanna", self.verb, argument(self.source), "-o", argument(self.out)]
        for name, value in self.options.items():
            option = f"--{name.replace('_', '-')}"
            if value is True:
                words.append(option)
            elif isinstance(value, list):
                words += [option, ",".join(map(str, value))]
            elif value not in (None, False):
                words += [option, str(value)]
        return shell_line(words)

    def python(self) -> str:
        """A script."""
        options = "".join(
            f"    {name}={value!r},\n"
            for name, value in self.options.items()
            if value not in (None, False)
        )
        arguments = f"    {self.source!r},\n    out={self.out!r},\n{options}"
        return (
            f"import kanna\n\nresult = kanna.{self.verb}(\n{arguments})\nprint(result.to_dict())\n"
        )


def out_name(job: StudioJob) -> str:
    """Name of the file or folder that a job writes."""
    name = model_name(job.source)
    if job.verb != "convert":
        return f"{name}-{job.verb}"
    format_name, preset = formats.parse_preset(None, job.options["preset"])
    suffix = formats.get(format_name).suffix
    # The name of a folder says what it is for; that of a file does by its ending.
    return f"{name}-{preset}{suffix}" if suffix else f"{name}-{format_name}-{preset}"


def call(job: StudioJob, folder: Path | None = None) -> VerbCall:
    """The call that a job is.

    Args:
        job: Whose call.
        folder: Where it writes; None: the current folder, for a call that somebody else makes.
    """
    name = out_name(job)
    out = str(folder / name) if folder else name
    return VerbCall(verb=job.verb, source=job.source, out=out, options=dict(job.options))

"""Every error kanna raises on purpose.

KannaError                 exit 1
├── UsageError             exit 2   options that do not fit together
├── SourceError            what the user gave cannot be used
│   ├── FormatError        a file is truncated, contradicts itself or is not what it claims
│   │   ├── CrashError     a runtime's process ended while it worked on a file
│   │   └── TemplateLimitError  a chat template that takes more than it may
│   ├── ChangedError       a file is cut, written to or replaced while it is read
│   ├── UnsupportedError   a family, tokenizer, tensor or type we do not know
│   └── RefusedError       pickled or otherwise unsafe input
├── EncodingError          values or shapes an encoding cannot hold
├── PlanError              a plan, preset or imatrix that does not fit the model
│   └── UnknownPresetError exit 2   a preset that does not exist (a UsageError too)
├── NotFoundError          exit 2   no file at a path (a UsageError, SourceError, PlanError too)
├── OutputError            the artefact cannot be written (exists, no space, read-only)
├── GateError              an artefact was checked and is not right
└── MissingError           exit 3   needs an extra or hardware that is not here
    └── KilledError        the system ended a process of ours, for want of memory (a CrashError too)
"""

from __future__ import annotations

from kanna.escaping import one_line


class KannaError(Exception):
    """The base of all. What it says is a line each, whatever was in the names it says it of.

    Args:
        problem: What was found to be wrong, kept as `found`.
        expected: What would have been right.
        todo: What the user can do.
    """

    exit_code = 1

    def __init__(self, problem: str, *, expected: str = "", todo: str = "") -> None:
        self.found, self.expected, self.todo = map(one_line, (problem, expected, todo))
        parts = [self.found]
        if expected:
            parts.append(f"Expected: {self.expected}")
        if todo:
            parts.append(f"What to do: {self.todo}")
        super().__init__("\n".join(parts))


class UsageError(KannaError):
    """Options do not fit together."""

    exit_code = 2


class SourceError(KannaError):
    """What the user gave cannot be used."""


class FormatError(SourceError):
    """A file is truncated, contradicts itself or is not what it claims to be."""


class ChangedError(SourceError):
    """A file was cut, written to, replaced or removed while it was read."""


class CrashError(FormatError):
    """A runtime's process ended while it worked on a file: an assertion, a crash, no memory."""


class TemplateLimitError(FormatError):
    """A chat template takes more time, memory, steps or text than a template may."""


class UnsupportedError(SourceError):
    """A family, tokenizer, tensor or type is not known."""


class RefusedError(SourceError):
    """The input is pickled or otherwise unsafe."""


class EncodingError(KannaError):
    """An encoding cannot hold these values or shapes."""


class PlanError(KannaError):
    """A plan, preset or importance matrix does not fit the model."""


class UnknownPresetError(UsageError, PlanError):
    """A preset is named that does not exist."""


class NotFoundError(UsageError, SourceError, PlanError):
    """A path is named at which there is no file or folder of that kind."""


class OutputError(KannaError):
    """The artefact cannot be written: it exists, there is no space, the disk is read-only."""


class GateError(KannaError):
    """An artefact was checked and is not right."""


class MissingError(KannaError):
    """An extra or hardware is needed that is not here."""

    exit_code = 3


class KilledError(CrashError, MissingError):
    """The system ended a process of ours, for want of memory: that says nothing of a file."""

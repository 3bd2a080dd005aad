"""Every error kanna raises on purpose.

KannaError                 exit 1
├── UsageError             exit 2   options that do not fit together
├── SourceError            what the user gave cannot be used
│   ├── FormatError        a file is truncated, lies about itself or is not what it claims
│   ├── UnsupportedError   a family, tokenizer, tensor or type we do not know
│   └── RefusedError       pickled or otherwise unsafe input
├── EncodingError          values or shapes an encoding cannot hold
├── PlanError              a plan, preset or imatrix that does not fit the model
├── OutputError            the artefact cannot be written (exists, no space, read-only)
├── GateError              an artefact was checked and is not right
└── MissingError           exit 3   needs an extra or hardware that is not here
"""

from __future__ import annotations


class KannaError(Exception):
    """Base class. The message says what was found; `expected` and `todo` say the rest."""

    exit_code = 1

    def __init__(self, found: str, *, expected: str = "", todo: str = "") -> None:
        self.found, self.expected, self.todo = found, expected, todo
        parts = [found]
        if expected:
            parts.append(f"Expected: {expected}")
        if todo:
            parts.append(f"What to do: {todo}")
        super().__init__("\n".join(parts))


class UsageError(KannaError):
    exit_code = 2


class SourceError(KannaError):
    pass


class FormatError(SourceError):
    pass


class UnsupportedError(SourceError):
    pass


class RefusedError(SourceError):
    pass


class EncodingError(KannaError):
    pass


class PlanError(KannaError):
    pass


class OutputError(KannaError):
    pass


class GateError(KannaError):
    pass


class MissingError(KannaError):
    exit_code = 3

"""Options of executors, from a file and from `NAME=VALUE`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from kanna._util.nearest import nearest, unreadable
from kanna.errors import UsageError

MOST_BYTES = 1 << 20


def option(about: str, default: Any = dataclasses.MISSING, **more: Any) -> Any:
    """A field of an executor's options.

    Args:
        about: What it does.
        default: Its value where none is given.
        more: Further arguments of the field.
    """
    return dataclasses.field(default=default, metadata={"about": about}, **more)


def read(kind: type, executor: str, config: str | Path | None, given: Mapping[str, object]) -> Any:
    """The options of an executor.

    Args:
        kind: The dataclass of them.
        executor: Its name, for messages.
        config: A YAML file of options by name.
        given: Options that are set beside it, which win; texts are read as YAML.

    Raises:
        UsageError: An option is unknown, has another type, or is missing.
        SourceError: The file cannot be read.
    """
    values: dict[str, object] = dict(_file(Path(config))) if config is not None else {}
    known = {field.name: field.type for field in dataclasses.fields(kind)}
    # A version such as 3.10 is no number.
    texts = {name for name, type_ in known.items() if type_ in (str, "str")}
    values |= {n: v if n in texts else _value(n, v) for n, v in given.items()}
    for name in values:
        if name not in known:
            raise UsageError(
                f"{executor} has no option {name}{nearest(name, known)}",
                expected=", ".join(sorted(known)) or "none",
            )
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        if first["type"].startswith("missing"):
            message = "it must be given"
        about = next((f.metadata["about"] for f in dataclasses.fields(kind) if f.name == name), "")
        raise UsageError(
            f"option {name} of {executor}: {message}",
            expected=about,
            todo=f"--on-set {name}=VALUE, or a line in the file of --on-config",
        ) from None


def _file(path: Path) -> Mapping[str, object]:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UsageError(f"{path} has more than {MOST_BYTES} bytes", expected="a few options")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{path} is no text in UTF-8", expected="options in YAML") from None
    except OSError as error:
        raise unreadable(path, error, UsageError, todo="check the path") from None
    values = _parsed(text, str(path))
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise UsageError(f"{path} holds no options", expected="NAME: VALUE on each line")
    return values


def _value(name: str, value: object) -> object:
    return _parsed(value, f"--on-set {name}") if isinstance(value, str) else value


def _parsed(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UsageError(f"{where} is no YAML: {type(error).__name__}") from None

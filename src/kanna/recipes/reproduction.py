"""The recipe that makes again what lies in a folder, from what the folder says of itself."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from pydantic import TypeAdapter, ValidationError

from kanna._util.nearest import absent
from kanna.errors import FormatError, KannaError, NotFoundError, SourceError
from kanna.escaping import visible, yaml_text
from kanna.recipes import records, verbs
from kanna.recipes.document import Value, parse
from kanna.recipes.options import model
from kanna.recipes.records import Manifest

_OTHER_NAMES = {"rule": "rules"}
_OUTPUTS = ("-o", "--output")
_REPORT = "report.json"


def recipe_from(path: Path) -> tuple[str, list[str]]:
    """The recipe of a run, of what `optimize` or `compare` left, or of an artefact.

    Args:
        path: A folder, or the file of an artefact.

    Returns:
        The text, and what it cannot say.

    Raises:
        SourceError: Nothing there says how it was made.
    """
    if not path.exists():
        raise NotFoundError(absent(path), expected="a run, or a file of kanna")
    manifest = records.read_manifest(path) if path.is_dir() else None
    if manifest is not None and manifest.recipe_text:
        return _of_run(manifest)
    command, hashes = _command(path)
    return _of_command(command, path, hashes)


def _of_run(manifest: Manifest) -> tuple[str, list[str]]:
    """The recipe of a run, its files in one, with the values that were set."""
    merged: dict[str, Value] = {"name": manifest.name, "about": manifest.about}
    steps: dict[str, Value] = {}
    outputs: dict[str, Value] = {}
    for name, text in manifest.recipe_text.items():
        value = parse(text, Path(name)).value
        if isinstance(value, dict):
            for part, into in (("steps", steps), ("outputs", outputs)):
                inside = value.get(part)
                into |= inside if isinstance(inside, dict) else {}
    variables: dict[str, Value] = {
        name: [*value] if isinstance(value, list) else value
        for name, value in manifest.variables.items()
    }
    merged |= {"variables": variables, "steps": steps, "outputs": outputs}
    lines = ["What the run read:"]
    lines += [f"  {one.given} sha256:{one.sha256}" for one in manifest.inputs]
    folder = Path(manifest.recipe).parent
    left = [f"paths that are not absolute are relative to {folder}"] if manifest.inputs else []
    return _text({k: v for k, v in merged.items() if v}, f"a run of {manifest.recipe}", lines), left


def _command(path: Path) -> tuple[str, dict[str, str]]:
    """The command that an artefact or a report says made it, and the hashes of its source."""
    if path.is_dir() and (path / _REPORT).is_file():
        try:
            report = json.loads((path / _REPORT).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise FormatError(f"{path / _REPORT} cannot be read: {error}") from None
        command = report.get("command") if isinstance(report, dict) else None
        if isinstance(command, str):
            return command, {}
    from kanna.inspection import inspect  # reads artefacts of every format

    try:
        provenance: Mapping[str, object] = inspect(path, hash=False).provenance
    except KannaError as error:
        raise SourceError(
            f"{path} does not say how it was made: {error.found}",
            expected="a run, what optimize or compare left, or a file of kanna",
        ) from None
    command, hashes = provenance.get("kanna.command"), provenance.get("kanna.source.sha256")
    if not isinstance(command, str):
        raise SourceError(
            f"{path} does not say how it was made", expected="a file that kanna wrote"
        )
    named = cast(dict[str, object], hashes) if isinstance(hashes, dict) else {}
    return command, {name: str(digest) for name, digest in named.items()}


def _of_command(command: str, path: Path, hashes: Mapping[str, str]) -> tuple[str, list[str]]:
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    if len(words) < 3 or words[0] != "kanna" or words[1] not in verbs.names():
        raise FormatError(
            f"{path} was made by {visible(command)[:200]!r}",
            expected="a command of a verb that can be a step: " + ", ".join(verbs.names()),
        )
    verb, left = words[1], list[str]()
    options = _options(verb, words[2:], left)
    variables: dict[str, Value] = {}
    for name in verbs.get(verb).inputs:
        value = options.get(name)
        if isinstance(value, str) and value not in verbs.get(verb).words:
            place = Path(value).expanduser()
            variables[name] = str(place.absolute()) if place.exists() else value
            options[name] = f"${{{name}}}"
            if not place.exists() and ":" not in value and value.count("/") != 1:
                left.append(f"where {name} is: {value} is not here, set it with --set {name}=PATH")
    step: dict[str, Value] = {"verb": verb, "with": options}
    recipe: dict[str, Value] = {"variables": variables, "steps": {"made": step}}
    if verbs.get(verb).outputs:
        recipe["outputs"] = {"artefact": "${made}"}
    lines = [f"The command it names: {command}"]
    lines += ["SHA-256 of the source:"] if hashes else []
    lines += [f"  {name} {digest}" for name, digest in hashes.items()]
    return _text(recipe, str(path), lines), left


def _options(verb: str, words: Sequence[str], left: list[str]) -> dict[str, Value]:
    """Options of a verb as its command line had them."""
    fields = model(verb).model_fields
    given: dict[str, list[str]] = {}
    positional = [name for name, field in fields.items() if field.is_required()]
    rest, at = list(words), 0
    while rest:
        word = rest.pop(0)
        if word in _OUTPUTS:
            rest[:1] = []
        elif word.startswith("--"):
            written, equal, value = word[2:].partition("=")
            name = _OTHER_NAMES.get(written, written.replace("-", "_"))
            if name not in fields:
                left.append(f"{word}: {verb} has no such option")
                rest[:1] = [] if equal or (rest and rest[0].startswith("-")) else rest[:0]
                continue
            flag = fields[name].annotation is bool
            text = "true" if flag else value if equal else rest.pop(0) if rest else ""
            given.setdefault(name, []).append(text)
        else:
            given.setdefault(positional[min(at, len(positional) - 1)], []).append(word)
            at += 1
    return {name: _typed(verb, name, texts, left) for name, texts in given.items()}


def _typed(verb: str, name: str, texts: list[str], left: list[str]) -> Value:
    """The value of an option, of its type in Python."""
    kind: type[Value] = model(verb).model_fields[name].annotation or str  # pyright: ignore[reportAssignmentType]
    adapter: TypeAdapter[Value] = TypeAdapter(kind)
    several: list[Value] = [*texts]
    for value in (texts[0], several) if len(texts) == 1 else (several,):
        try:
            typed = adapter.validate_python(value)
        except ValidationError:
            continue
        return str(typed) if isinstance(typed, Path) else typed
    if name == "rules":
        pairs = [text.rpartition("=") for text in texts]
        return {pattern: encoding for pattern, _, encoding in pairs}
    left.append(f"{name}: {', '.join(texts)} is no value that it takes")
    return None


def _text(recipe: Mapping[str, Value], origin: str, lines: Sequence[str]) -> str:
    head = [f"Made by `kanna recipe from` of {origin}.", *lines]
    return "".join(f"# {visible(line)}\n" for line in head) + yaml_text(recipe, width=100)

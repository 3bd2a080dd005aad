"""What people type after `kanna serve`: models, their companions, origins, programs, TLS."""

from __future__ import annotations

import shutil
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypedDict

from kanna._util.addresses import parts_of
from kanna._util.nearest import absent
from kanna.errors import NotFoundError, UsageError
from kanna.serving import engines
from kanna.serving.settings import ModelSpec
from kanna.sources import locate, references

AUTO, NEVER = "auto", "never"
"""Values of `--llama-server` that name no program."""


class TlsOptions(TypedDict, total=False):
    """uvicorn's options of TLS."""

    ssl_certfile: str
    ssl_keyfile: str


def model_name(argument: str | Path) -> str:
    """The name of a model that is given as NAME=PATH or PATH."""
    name, reference = split_name(argument)
    return name or _file_name(reference)


def split_name(argument: str | Path) -> tuple[str, str]:
    """The name ("" for none) and the reference of NAME=REFERENCE; addresses may hold a `=`."""
    name, equal, reference = str(argument).partition("=")
    if not equal or "://" in name:
        return "", str(argument)
    return name, reference


def _file_name(reference: str) -> str:
    name = references.parse(reference).label
    for engine in map(engines.get, engines.names()):
        name = name.removesuffix(engine.suffix)
    return name


def parse_models(
    arguments: Sequence[str | Path], aliases: Sequence[str], *, offline: bool = False
) -> list[ModelSpec]:
    """The models to serve.

    Args:
        arguments: A reference or NAME=REFERENCE each.
        aliases: ALIAS for the first model, or ALIAS=NAME.
        offline: Use only what is on this machine already.

    Raises:
        UsageError: There is no model, a path does not exist, or an alias is for no model.
    """
    specs: list[ModelSpec] = []
    for argument in arguments:
        name, reference = split_name(argument)
        file = locate(reference, offline=offline)
        if not file.exists():
            raise NotFoundError(absent(file), expected=f"{_artefacts()}, or NAME=PATH")
        specs.append(ModelSpec(name=name or _file_name(reference), path=file))
    if not specs:
        raise UsageError("no model was given", expected=_artefacts())
    for argument in aliases:
        alias, equal, name = argument.partition("=")
        spec = _find(specs, name) if equal else specs[0]
        if spec is None:
            raise UsageError(f"the alias {alias} is for {name!r}", expected=_names(specs))
        spec.aliases.append(alias)
    return specs


def add_companions(
    specs: list[ModelSpec],
    adapters: Sequence[str],
    drafts: Sequence[str],
    towers: Sequence[str | Path] = (),
    *,
    offline: bool = False,
) -> None:
    """Give models the adapters, draft models and vision towers that are meant for them.

    Args:
        specs: The models.
        adapters: FILE or folder for the first model, or NAME=FILE.
        drafts: The same.
        towers: The same.
        offline: Use only what is on this machine already.

    Raises:
        UsageError: A file does not exist, is for no model, or a model has two drafts or towers.
    """
    for spec, file in _companions(specs, adapters, "adapter", offline):
        spec.adapters.append(file)
    for spec, file in _companions(specs, drafts, "draft model", offline):
        if spec.draft:
            raise UsageError(
                f"{spec.name} has two draft models: {spec.draft} and {file}", expected="one"
            )
        spec.draft = file
    for spec, file in _companions(specs, towers, "vision tower", offline):
        if spec.mmproj:
            raise UsageError(
                f"{spec.name} has two vision towers: {spec.mmproj} and {file}", expected="one"
            )
        spec.mmproj = file


def _companions(
    specs: list[ModelSpec], arguments: Sequence[str | Path], kind: str, offline: bool
) -> Iterator[tuple[ModelSpec, Path]]:
    """Each file with the model it is for."""
    for argument in arguments:
        name, reference = split_name(argument)
        spec = _find(specs, name) if name else specs[0]
        if spec is None:
            raise UsageError(f"the {kind} {reference} is for {name!r}", expected=_names(specs))
        file = locate(reference, offline=offline)
        # An adapter of mlx-lm is a folder; which of both an engine takes, it says itself.
        if not (file.is_file() or (kind == "adapter" and file.is_dir())):
            raise NotFoundError(
                f"the {kind} {absent(file)}",
                expected=f"the file of a {kind} as its engine loads it, such as a GGUF",
            )
        yield spec, file


def _find(specs: list[ModelSpec], name: str) -> ModelSpec | None:
    return next((spec for spec in specs if spec.name == name), None)


def _names(specs: list[ModelSpec]) -> str:
    return ", ".join(spec.name for spec in specs)


def _artefacts() -> str:
    return ", ".join(engines.get(name).artefact for name in engines.names())


def parse_origin(argument: str) -> str:
    """An origin as browsers send it, or `*`; raises UsageError."""
    parts = parts_of(argument)
    if argument != "*" and (
        parts is None or not parts.scheme or not parts.netloc or parts.path not in {"", "/"}
    ):
        raise UsageError(
            f"{argument!r} is no origin",
            expected="https://chat.example, with its port if any; or *",
        )
    return argument.rstrip("/").lower()


def find_program(argument: str | Path) -> str | None:
    """The absolute path of a program; None for `auto` and `never`; raises UsageError."""
    if argument in {AUTO, NEVER}:
        return None
    path = shutil.which(str(argument))
    if path is None:
        raise UsageError(
            f"{argument} is no program", expected=f"a llama-server, or {AUTO}, or {NEVER}"
        )
    return str(Path(path).resolve())


def parse_tls(cert: str | Path | None, key: str | Path | None) -> TlsOptions:
    """The options of TLS, empty without a certificate.

    Raises:
        UsageError: One of the two is missing, or they do not go together.
    """
    if not (cert or key):
        return {}
    if not (cert and key):
        raise UsageError(
            "a certificate and its key go together", expected="--tls-cert and --tls-key"
        )
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(str(cert), str(key))
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"{cert} and {key} cannot be used for TLS: {error}",
            expected="a PEM certificate and its key",
        ) from None
    return {"ssl_certfile": str(cert), "ssl_keyfile": str(key)}

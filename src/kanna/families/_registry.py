"""Which families there are, and which of them a config.json or a GGUF architecture belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kanna._util import plugins
from kanna._util.typed import TypedObject, text
from kanna.errors import KannaError, SourceError, UnsupportedError
from kanna.families._others import other_of
from kanna.families.base import Family
from kanna.formats.onnx import encoder
from kanna.model import Model

PACKAGE = "kanna.families"
_NAME = text(255)
_KNOWN = "a model of a family that `kanna components families` lists"


def names() -> list[str]:
    """Names of the families, of third parties too, sorted."""
    return list(plugins.names(PACKAGE, "FAMILY"))


def get(name: str) -> Family:
    """The family called `name`; UnsupportedError names the known ones."""
    return plugins.load(PACKAGE, name, "FAMILY")


def family_of(config: Mapping[str, Any]) -> tuple[str, Family]:
    """The family of a config.json, by its architecture class, else by its model type.

    UnsupportedError names the known ones; SourceError a config that contradicts itself.
    """
    classes = architectures_of(config)
    typed = _by_model_type(config)
    named = [
        name
        for name in names()
        if any(a in get(name).architectures for a in classes) and get(name).suits(config)
    ]
    if len(named) > 1:
        raise SourceError(
            f"config.json names architectures of several families: {', '.join(classes)}",
            expected="one architecture",
            todo="leave the one of these weights in config.json",
        )
    if named and typed and named[0] not in typed:
        raise SourceError(
            f"config.json has architecture {classes[0]} and model_type "
            f"{config.get('model_type')!r}, which is another family",
            expected=f"model_type {get(named[0]).model_type!r}",
            todo="fetch config.json again from where the model was published",
        )
    if named:
        return named[0], get(named[0])
    if typed and not classes:
        return typed[0], get(typed[0])
    raise _unsupported(config, classes)


def require_runtime(config: Mapping[str, Any]) -> None:
    """Raise UnsupportedError for a config.json of a model that is known to run nowhere.

    Other models that no family is for may run as they are, so this is not `family_of`.
    """
    try:
        family_of(config)
    except UnsupportedError:
        other = other_of(config, architectures_of(config))
        if other is not None and not other.runs_somewhere:
            raise
    except SourceError:
        return  # what reads the config next says what is wrong with it


def other_names(model: Model) -> tuple[str, ...]:
    """Models of other names that are of a model's family; none where no family is for it."""
    try:
        return (family_of(model.config) if model.config else family_of_model(model))[1].also
    except KannaError:
        return ()


def architectures_of(config: Mapping[str, Any]) -> list[str]:
    """The architecture classes of a config.json; SourceError when they are no names."""
    given = config.get("architectures")
    if given is None:
        return []
    classes = [given] if isinstance(given, str) else given
    if not isinstance(classes, list) or not all(isinstance(a, str) and a for a in classes):
        raise SourceError(
            f"config.json has architectures = {given!r:.80}",
            expected='a list of names, such as ["LlamaForCausalLM"]',
            todo="fetch config.json again from where the model was published",
        )
    return classes


def has_head(config: Mapping[str, Any]) -> bool:
    """Whether the class of a config.json predicts tokens, ranks or classifies; not `…Model`."""
    return not any(name.endswith("Model") for name in architectures_of(config))


def _by_model_type(config: Mapping[str, Any]) -> list[str]:
    """Families whose model type a config.json has, at its top or for its text part."""
    whole = TypedObject.of(config, "config.json")
    own = whole.get("model_type", _NAME, None)
    types = {own, whole.part("text_config").get("model_type", _NAME, None)}
    return [n for n in names() if get(n).model_type in types or (own and own in get(n).model_types)]


def _unsupported(config: Mapping[str, Any], classes: list[str]) -> UnsupportedError:
    if encoder.is_encoder(config):
        return UnsupportedError(
            f"{', '.join(classes)} is an encoder that llama.cpp has not",
            expected="an encoder of a family that `kanna components families` lists",
            todo="write it to ONNX: kanna convert SRC -o folder --preset onnx:int8, then "
            "kanna verify SRC folder and kanna bench folder",
        )
    if (other := other_of(config, classes)) is not None:
        named = ", ".join(classes) or config.get("model_type")
        return UnsupportedError(
            f"{other.title} ({named}) is not supported: {other.reason}",
            expected=_KNOWN,
            todo=other.instead,
        )
    known = sorted(a for name in names() for a in get(name).architectures)
    if classes:
        what = f"architecture {', '.join(classes)} is not supported"
    elif config.get("model_type") is not None:
        what = f"model type {config.get('model_type')!r} is not supported"
    else:
        what = "config.json names neither architectures nor a model_type"
    return UnsupportedError(
        what,
        expected="one of " + ", ".join(known),
        todo="if someone published a GGUF of this model, give that: any architecture can be "
        "requantized from GGUF",
    )


def family_of_model(model: Model) -> tuple[str, Family]:
    """The family that writes models of this architecture.

    Where several do: the one whose `signature` the model has, else the one of that name.
    """
    writers = [n for n in names() if get(n).arch == model.family]
    if not writers:
        raise UnsupportedError(
            f"the architecture {model.family!r} has no Hugging Face form here",
            expected=", ".join(sorted({get(n).arch for n in names()})),
            todo="requantize to GGUF instead: that needs no knowledge of the architecture",
        )
    for name in writers:
        signature = get(name).signature
        if signature and any(f".{signature}." in tensor for tensor in model.tensors):
            return name, get(name)
    plain = [n for n in writers if not get(n).signature]
    name = model.family if model.family in plain else (plain or writers)[0]
    return name, get(name)

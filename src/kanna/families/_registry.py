"""Which families there are, and which of them a config.json or a GGUF architecture belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kanna._util import plugins
from kanna.errors import UnsupportedError
from kanna.families.base import Family
from kanna.formats.onnx import encoder

PACKAGE = "kanna.families"


def names() -> list[str]:
    """Names of the families, of third parties too, sorted."""
    return list(plugins.names(PACKAGE, "FAMILY"))


def get(name: str) -> Family:
    """The family called `name`; UnsupportedError names the known ones."""
    return plugins.load(PACKAGE, name, "FAMILY")


def family_of(config: Mapping[str, Any]) -> tuple[str, Family]:
    """The family of a config.json, by its architecture class.

    UnsupportedError names the known ones.
    """
    classes = [a for a in config.get("architectures") or [] if isinstance(a, str)]
    for name in names():
        if any(a in get(name).architectures for a in classes):
            return name, get(name)
    if encoder.is_encoder(config):
        raise UnsupportedError(
            f"{', '.join(classes)} is an encoder: it makes vectors, and no text",
            expected="a model that generates text",
            todo="encoders go to ONNX: kanna convert SRC -o folder --preset onnx:int8, then "
            "kanna verify SRC folder and kanna bench folder",
        )
    known = sorted(a for name in names() for a in get(name).architectures)
    architecture = (
        f"architecture {', '.join(classes)}"
        if classes
        else f"model type {config.get('model_type')!r}"
    )
    raise UnsupportedError(
        f"{architecture} is not supported",
        expected="one of " + ", ".join(known),
        todo="if someone published a GGUF of this model, give that: any architecture can be "
        "requantized from GGUF",
    )


def family_of_arch(arch: str) -> tuple[str, Family]:
    """The family that writes `arch`; where several do, the one of that name."""
    writers = [n for n in names() if get(n).arch == arch]
    if not writers:
        raise UnsupportedError(
            f"the architecture {arch!r} has no Hugging Face form here",
            expected=", ".join(sorted({get(n).arch for n in names()})),
            todo="requantize to GGUF instead: that needs no knowledge of the architecture",
        )
    name = arch if arch in writers else writers[0]
    return name, get(name)

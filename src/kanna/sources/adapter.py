"""LoRA adapters as PEFT saves them: they change a base model and are no model themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from kanna._util.typed import text
from kanna.errors import FormatError, SourceError, UnsupportedError
from kanna.formats import folder_files, gguf
from kanna.formats.text_files import read_object

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


def base_of(path: Path) -> str:
    """The base model that an adapter's config names, or ""."""
    try:
        return read_object(path).get("base_model_name_or_path", text(4096), "")
    except FormatError:
        return ""


def refusal(given: str, base: str) -> UnsupportedError:
    """The error for an adapter in place of a model.

    Args:
        given: What the user named.
        base: The base model, or "" where it is not known.
    """
    named = f" of {base}" if base else ""
    return UnsupportedError(
        f"{given} is a LoRA adapter{named}, not a model",
        expected=f"the base model{f' ({base})' if base else ''} with the adapter merged into it",
        todo=f"merge it: kanna merge {base or 'BASE'} {given} -o merged/ (a GGUF as well, with "
        "-o tuned.gguf --preset Q4_K_M); or convert the base",
    )


def refuse(files: Mapping[str, Path], given: str) -> None:
    """Raise UnsupportedError when a folder holds an adapter and no model.

    Args:
        files: The files of the folder by name.
        given: What the user named.
    """
    if not is_adapter(files):
        return
    others = [
        n
        for n in files
        if n not in WEIGHTS and n.endswith((".safetensors", ".bin", ".gguf", ".index.json"))
    ]
    if "config.json" not in files or not others:
        path = files.get(CONFIG)
        raise refusal(given, base_of(path) if path else "")


def refuse_folder(path: Path) -> None:
    """Raise UnsupportedError where a path is a folder that holds an adapter and no model.

    Args:
        path: What the user named as a model.
    """
    if path.is_dir():
        refuse(folder_files.files(path), str(path))


def refuse_path(path: Path) -> None:
    """Raise UnsupportedError where a path is an adapter and no model, in a folder or as a GGUF.

    Args:
        path: What the user named as a model.
    """
    if path.suffix.lower() == ".gguf" and path.is_file():
        refuse_gguf(gguf.read(path).value("general.type"), str(path))
    refuse_folder(path)


def is_adapter(files: Mapping[str, Path]) -> bool:
    """Whether a folder holds an adapter, alone or beside a model."""
    return CONFIG in files or any(n in files for n in WEIGHTS)


def beside_model(files: Mapping[str, Path]) -> list[str]:
    """A note for a folder that holds a model and an adapter."""
    if not is_adapter(files):
        return []
    path = files.get(CONFIG)
    base = base_of(path) if path else ""
    return [
        "the folder also holds a LoRA adapter"
        + (f" of {base}" if base else "")
        + f" ({CONFIG}): it is left out, the model is converted without it"
    ]


def refuse_gguf(kind: object, name: str) -> None:
    """Raise SourceError for a GGUF that holds no model.

    Args:
        kind: Its `general.type`.
        name: What to call the file.
    """
    if kind == "adapter":
        raise UnsupportedError(
            f"{name} is a LoRA adapter, not a model",
            expected="the GGUF of its base model",
            todo="give the base model; llama.cpp applies the adapter with --lora",
        )
    if kind == "imatrix":
        raise SourceError(
            f"{name} is an importance matrix, not a model",
            expected="a GGUF of a model",
            todo=f"kanna convert SRC -o OUT --imatrix {name}",
        )


def weights_digest(merged: Sequence[str]) -> dict[str, str]:
    """A digest of the weights that adapters are merged with, which no file has; {} where all are 1.

    Args:
        merged: Adapters, each with `=WEIGHT` where that is not 1.
    """
    weights = [name.rpartition("=")[2] if "=" in name else "1" for name in merged]
    if set(weights) <= {"1"}:
        return {}
    return {"weights of adapters": hashlib.sha256(",".join(weights).encode()).hexdigest()}

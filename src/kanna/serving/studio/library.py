"""Models that can be chosen without typing: built in, uploaded, kept by others, in folders."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kanna.sources import BUILTIN
from kanna.storage import inventory

_DEPTH = 4
_MOST_FOLDERS = 4000
_MOST_MODELS = 200
_LATER_PART = re.compile(r"-(?!00001)\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)
_STORES = {"hub": "Hugging Face cache", "ollama": "Ollama"}
_NOT_SEARCHED = {"node_modules", "site-packages", "__pycache__", "build", "jobs"}


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """A model that can be converted.

    Attributes:
        source: As every verb takes it.
        name: For people.
        place: Where it is, for people.
        num_bytes: Of its weights; None: not known before it is fetched.
    """

    source: str
    name: str
    place: str
    num_bytes: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def known_models(uploads: Path, folders: Sequence[Path]) -> list[KnownModel]:
    """Every model found, uploaded ones first.

    Args:
        uploads: The studio's folder of uploaded models.
        folders: To search, some levels deep.
    """
    models = [m for m in _in_folder(uploads, "Uploaded") if ".partial" not in m.source]
    models += [
        KnownModel(source=f"builtin:{name}", name=name, place="Built in") for name in BUILTIN
    ]
    models += [
        KnownModel(
            source=model.reference,
            name=model.reference,
            place=_STORES.get(model.store, model.store),
            num_bytes=model.num_bytes,
        )
        for model in inventory.list().models
    ]
    for folder in folders:
        models += _in_folder(folder, str(folder))
    unique = {model.source: model for model in reversed(models)}
    return [m for m in models if unique[m.source] is m][:_MOST_MODELS]


def _in_folder(folder: Path, place: str) -> list[KnownModel]:
    models: list[KnownModel] = []
    for path, names in _walk(folder):
        if _is_model(names):
            models.append(_folder_model(path, path.name, place))
        for name in sorted(names):
            if name.lower().endswith(".gguf") and not _LATER_PART.search(name):
                file = path / name
                models.append(
                    KnownModel(source=str(file), name=name, place=place, num_bytes=_size([file]))
                )
    return models


def _walk(folder: Path) -> Iterator[tuple[Path, set[str]]]:
    """Folders with the names of their files, without hidden ones and links."""
    base = len(folder.parts)
    for number, (path, folders, names) in enumerate(os.walk(folder)):
        depth = len(Path(path).parts) - base
        kept = [f for f in folders if not f.startswith(".") and f not in _NOT_SEARCHED]
        folders[:] = sorted(kept) if depth < _DEPTH else []
        yield Path(path), set(names)
        if number >= _MOST_FOLDERS:
            return


def _is_model(names: set[str]) -> bool:
    return "config.json" in names and any(n.endswith(".safetensors") for n in names)


def _folder_model(folder: Path, name: str, place: str) -> KnownModel:
    weights = list(folder.glob("*.safetensors"))
    return KnownModel(source=str(folder), name=name, place=place, num_bytes=_size(weights))


def _size(paths: Sequence[Path]) -> int | None:
    try:
        return sum(path.stat().st_size for path in paths)
    except OSError:
        return None

"""What lies in an artefact, read again, and what it says of how it was made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kanna import families, provenance
from kanna.checks import Check
from kanna.errors import KannaError
from kanna.model import Tensor
from kanna.sources import open_source
from kanna.sources.adapter import CONFIG as ADAPTER_CONFIG


def read(artefact: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors under GGUF names, and metadata values.

    Args:
        artefact: A GGUF file, or a folder whose tensors can be read.
    """
    opened = open_source(artefact)
    if opened.gguf is not None:
        return opened.tensors, {k: v.value for k, v in opened.gguf.metadata.items()}
    back = families.load_model(opened)
    metadata = {k: v.value for k, v in back.metadata.items()}
    return back.tensors, metadata | provenance.of_folder(artefact)


def unnamed_adapter(artefact: Path, checks: Sequence[Check]) -> list[Check]:
    """A check that names why others failed: an adapter was merged in, and the source has none.

    Args:
        artefact: What was checked.
        checks: What came of it; nothing is added where none failed.
    """
    if all(check.ok is not False for check in checks):
        return []
    try:
        _, metadata = read(artefact)
    except KannaError:
        return []
    if f'"{ADAPTER_CONFIG}"' not in str(metadata.get(provenance.SOURCE_HASHES)):
        return []
    command = metadata.get("kanna.command", "kanna merge")
    detail = (
        f"the file was made with an adapter ({command}), and the source was taken without one: "
        "name it with --adapter FOLDER"
    )
    return [Check(name="adapter", ok=False, detail=detail)]

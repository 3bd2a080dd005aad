"""A model of which `kanna adapt --method full` trained all weights, as a change of its base.

It is a model folder, which every verb takes as one; after its base it stands for what it learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kanna._util.typed import text
from kanna.adapters.base import AdapterLayout, LoraAdapter
from kanna.adapters.base_model import FILE
from kanna.formats import safetensors
from kanna.formats.text_files import read_object
from kanna.sources import adapter as names

_CONFIG = "config.json"


def read(given: str, path: Path, files: Mapping[str, Path]) -> LoraAdapter:
    """A model that was trained in full.

    Args:
        given: What the user named.
        path: Its folder.
        files: The files in it.
    """
    base = read_object(files[FILE], todo="train it again, or give the folder as a model")
    return LoraAdapter(
        given=given,
        path=path,
        layout=LAYOUT.title,
        base=base.get("base", text(4096), ""),
        replaced=dict(safetensors.read_file(files[LAYOUT.weights])),
        ties=True,  # a head that is the embedding was trained as that
        weight_files=[files[LAYOUT.weights]],
        files={n: p for n, p in files.items() if n != LAYOUT.weights},
    )


def _recognizes(files: Mapping[str, Path]) -> bool:
    whole = {FILE, _CONFIG, LAYOUT.weights} <= set(files)
    return whole and names.CONFIG not in files


LAYOUT = AdapterLayout(
    title="kanna",
    summary="Models of which `kanna adapt --method full` trained all weights, after their base",
    weights="model.safetensors",
    recognizes=_recognizes,
    read=read,
)

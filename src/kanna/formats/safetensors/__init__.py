"""safetensors: the container of Hugging Face models (huggingface.co/docs/safetensors)."""

from __future__ import annotations

from pathlib import Path

from kanna.encodings import Encoding
from kanna.formats.base import FLOATS, Format
from kanna.formats.safetensors.keyed import KeyedArrays
from kanna.formats.safetensors.read import header_size, parse_header, read_file, read_folder
from kanna.formats.safetensors.save import save
from kanna.formats.safetensors.shards import ADAPTER, INDEX, weight_files
from kanna.formats.safetensors.write import SHARD_BYTES, check_folder, folder_bytes, write_folder

__all__ = [
    "ADAPTER",
    "FORMAT",
    "INDEX",
    "SHARD_BYTES",
    "KeyedArrays",
    "check_folder",
    "folder_bytes",
    "header_size",
    "parse_header",
    "read_file",
    "read_folder",
    "save",
    "weight_files",
    "write_folder",
]


def _opens(path: Path) -> bool:
    return (path / "config.json").is_file() and any(path.glob("*.safetensors"))


def _carries(encoding: Encoding) -> bool:
    return encoding.name in FLOATS


FORMAT = Format(name="safetensors", title="safetensors", opens=_opens, carries=_carries)
"""Only written: it is what sources come in."""

"""safetensors: the container of Hugging Face models (huggingface.co/docs/safetensors)."""

from kanna.formats.safetensors.read import INDEX, header_size, parse_header, read_file, read_folder
from kanna.formats.safetensors.save import save
from kanna.formats.safetensors.write import SHARD_BYTES, check_folder, folder_bytes, write_folder

__all__ = [
    "INDEX",
    "SHARD_BYTES",
    "check_folder",
    "folder_bytes",
    "header_size",
    "parse_header",
    "read_file",
    "read_folder",
    "save",
    "write_folder",
]

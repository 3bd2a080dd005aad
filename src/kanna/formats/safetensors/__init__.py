"""safetensors: the container of Hugging Face models (huggingface.co/docs/safetensors)."""

from kanna.formats.safetensors.read import header_size, parse_header, read_file, read_folder
from kanna.formats.safetensors.write import write_folder

__all__ = ["header_size", "parse_header", "read_file", "read_folder", "write_folder"]

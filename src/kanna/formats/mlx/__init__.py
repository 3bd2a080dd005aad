"""MLX folders: safetensors with packed codes, scales and biases, and settings in config.json."""

from kanna.formats.mlx.read import is_folder, is_mlx, unpacked
from kanna.formats.mlx.write import settings, weight_bytes, write_folder

__all__ = ["is_folder", "is_mlx", "settings", "unpacked", "weight_bytes", "write_folder"]

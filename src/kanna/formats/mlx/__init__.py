"""MLX folders: safetensors with packed codes, scales and biases, and settings in config.json."""

from kanna.formats.mlx.read import is_mlx, unpacked

__all__ = ["is_mlx", "unpacked"]

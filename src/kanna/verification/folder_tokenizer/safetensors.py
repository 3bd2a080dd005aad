"""The tokenizer that transformers reads from a Hugging Face folder."""

from __future__ import annotations

from kanna.verification.folder_tokenizer.mlx import read

READER = read

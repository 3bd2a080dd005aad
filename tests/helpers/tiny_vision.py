"""Tiny random models that see, made with transformers: a tower, a projector, a model of text."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kanna
from helpers import made_once, picture_files, tiny_models
from helpers.tiny_recipe import SMALL
from kanna._util.progress import Silent

MEAN, STD = [0.5, 0.45, 0.4], [0.5, 0.6, 0.7]
SIDE = 56
_SIGLIP = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": 14,
}
TEXT = SMALL | {"tie_word_embeddings": True}


def _gemma3() -> Any:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = TEXT | {"head_dim": 64, "query_pre_attn_scalar": 64, "sliding_window": 32}
    return Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config=text,
            vision_config={**_SIGLIP, "vision_use_head": False},
            mm_tokens_per_image=4,
            image_token_index=500,
            boi_token_index=501,
            eoi_token_index=502,
        )
    )


def _idefics3() -> Any:
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

    return SmolVLMForConditionalGeneration(
        SmolVLMConfig(
            text_config=TEXT | {"model_type": "llama"},
            vision_config=_SIGLIP,
            scale_factor=2,
            image_token_id=500,
            tie_word_embeddings=True,
        )
    )


_MODELS = {"gemma3": _gemma3, "idefics3": _idefics3}
KINDS = tuple(_MODELS)
_MARKERS = {"idefics3": ("\n\n", "\n", "<fake_token_around_image>", "<global-img>")}


def make(kind: str, folder: Path) -> Any:
    """Write a model to `folder` and return it, in float32."""
    import torch

    torch.manual_seed(0)
    model = _MODELS[kind]().float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 or "position" in name or "projection_weight" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif "embed" not in name:
                parameter.mul_(2.0)
    model.save_pretrained(folder)
    tiny_models.write_tokenizer("spm", folder, 512)
    _add_tokens(folder / "tokenizer.json", _MARKERS.get(kind, ()))
    write_settings(folder)
    return model


def _add_tokens(path: Path, texts: Iterable[str]) -> None:
    """Tokens that llama.cpp puts around a picture."""
    from tokenizers import AddedToken, Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in texts])
    tokenizer.save(str(path))


def write_settings(folder: Path, **changes: Any) -> None:
    """Write preprocessor_config.json."""
    values = {"image_mean": MEAN, "image_std": STD, "size": {"longest_edge": SIDE}}
    (folder / "preprocessor_config.json").write_text(json.dumps(values | changes))


def picture(kind: str) -> Any:
    """A picture of the size that a tower takes as it is: u8 [height, width, 3]."""
    rng = np.random.default_rng(3)
    return rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def pair(kind: str, folders: pytest.TempPathFactory) -> Path:
    """A folder of a checkpoint, `model`, and what it becomes: `text.gguf` and `mmproj.gguf`.

    `cat.png` is a picture of the size that the tower takes.
    """

    def convert(folder: Path) -> None:
        (folder / "model").mkdir()
        make(kind, folder / "model")
        quiet = Silent()
        kanna.convert(folder / "model", folder / "text.gguf", encoding="f32", progress=quiet)
        kanna.convert(folder / "model", folder / "mmproj.gguf", mmproj=True, progress=quiet)
        (folder / "cat.png").write_bytes(picture_files.png(picture(kind)))

    return made_once.once(made_once.shared_folder(folders) / f"vision-{kind}", convert)


def seen(kind: str, model: Any, pixels: Any) -> Any:
    """What a model's tower and projector make of a picture: f32 [tokens, width]."""
    import torch

    values = ((pixels / 255.0 - np.array(MEAN)) / np.array(STD)).astype(np.float32)
    inputs = torch.tensor(values.transpose(2, 0, 1)[None])
    with torch.no_grad():
        if kind == "idefics3":
            inputs = inputs[None]  # pictures of one prompt
        rows = model.model.get_image_features(inputs).pooler_output
        rows = torch.cat(list(rows)) if isinstance(rows, list | tuple) else rows
    rows = rows.reshape(-1, rows.shape[-1]).numpy()
    # llama.cpp reads the whole first, then its one tile, which is the same.
    return np.concatenate([rows, rows]) if kind == "idefics3" else rows

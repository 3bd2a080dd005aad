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


def _qwen3vl() -> Any:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    rope = {
        "rope_type": "default",
        "rope_theta": 1e5,
        "mrope_section": [11, 11, 10],
        "mrope_interleaved": True,
    }
    return Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(
            text_config=TEXT | {"head_dim": 64, "rope_parameters": rope},
            vision_config={
                "depth": 3,
                "hidden_size": 64,
                "intermediate_size": 160,
                "num_heads": 4,
                "num_position_embeddings": 16,
                "out_hidden_size": TEXT["hidden_size"],
                "deepstack_visual_indexes": [0, 2],
            },
            vision_start_token_id=509,
            vision_end_token_id=510,
            image_token_id=511,
            video_token_id=508,
            tie_word_embeddings=True,
        )
    )


_MODELS = {"gemma3": _gemma3, "idefics3": _idefics3, "qwen3vl": _qwen3vl}
KINDS = tuple(_MODELS)
_MARKERS = {
    "idefics3": ("\n\n", "\n", "<fake_token_around_image>", "<global-img>"),
    "qwen3vl": ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>"),
}
_TOKENIZERS = {"qwen3vl": "qwen2"}
_SIDES = {"qwen3vl": 96}
"""Pixels of the sides of pictures that a tower takes as they are, where it is not SIDE."""
_PATCH = 16


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
    markers = _MARKERS.get(kind, ())
    tiny_models.write_tokenizer(_TOKENIZERS.get(kind, "spm"), folder, 512 - len(markers))
    _add_tokens(folder / "tokenizer.json", markers)
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
    side = _SIDES.get(kind, SIDE)
    return rng.integers(0, 256, (side, side, 3), dtype=np.uint8)


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


def scaled(pixels: Any) -> Any:
    """Colours as towers take them: f32 [height, width, 3]."""
    return ((pixels / 255.0 - np.array(MEAN)) / np.array(STD)).astype(np.float32)


def seen(kind: str, model: Any, pixels: Any) -> Any:
    """What a model's tower and projector make of a picture: f32 [tokens, width]."""
    import torch

    values = scaled(pixels)
    if kind == "qwen3vl":
        return _seen_by_qwen3vl(model, values)
    inputs = torch.tensor(values.transpose(2, 0, 1)[None])
    with torch.no_grad():
        if kind == "idefics3":
            inputs = inputs[None]  # pictures of one prompt
        rows = model.model.get_image_features(inputs).pooler_output
        rows = torch.cat(list(rows)) if isinstance(rows, list | tuple) else rows
    rows = rows.reshape(-1, rows.shape[-1]).numpy()
    # llama.cpp reads the whole first, then its one tile, which is the same.
    return np.concatenate([rows, rows]) if kind == "idefics3" else rows


def patches(values: Any) -> tuple[Any, Any]:
    """A picture as Qwen3-VL takes it: both frames of each patch, squares of four together.

    Args:
        values: f32 [side, side, 3].
    """
    import torch

    across = values.shape[0] // _PATCH
    frames = np.stack([values.transpose(2, 0, 1)] * 2)
    parts = frames.reshape(2, 3, *(across // 2, 2, _PATCH) * 2)
    rows = parts.transpose(2, 5, 3, 6, 1, 0, 4, 7).reshape(across**2, -1)
    return torch.tensor(rows), torch.tensor([[1, across, across]])


def _seen_by_qwen3vl(model: Any, values: Any) -> Any:
    """What goes in with the tokens, and what is added in the first layers: [tokens, 3 × width]."""
    import torch

    with torch.no_grad():
        made = model.model.get_image_features(*patches(values))
    rows = [made.pooler_output, *made.deepstack_features]
    return torch.cat(
        [torch.cat(list(r)) if isinstance(r, list | tuple) else r for r in rows], 1
    ).numpy()

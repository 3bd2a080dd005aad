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
from helpers.tiny_vision_models import MODELS, SIDE, TEXT
from kanna._util.progress import Silent

MEAN, STD = [0.5, 0.45, 0.4], [0.5, 0.6, 0.7]
__all__ = ["KINDS", "MEAN", "SIDE", "STD", "TEXT"]
KINDS = tuple(MODELS)
_BY_SQUARES = ("qwen35", "qwen35moe", "qwen3vl", "qwen3vlmoe")
"""Kinds whose patches come in squares of four."""
_MARKERS = {
    "gemma4": ("<|image>", "<image|>", "<|image|>"),
    "idefics3": ("\n\n", "\n", "<fake_token_around_image>", "<global-img>"),
    "mistral3": ("[IMG]", "[IMG_BREAK]", "[IMG_END]"),
    **dict.fromkeys(_BY_SQUARES, ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>")),
}
_TOKENIZERS = dict.fromkeys(_BY_SQUARES, "qwen2") | {"mistral3": "tekken"}
_SIZES = dict.fromkeys(_BY_SQUARES, (96, 96)) | {"gemma4": (96, 108), "mistral3": (84, 112)}
"""Height and width of pictures that a tower takes as they are, where it is not SIDE twice."""
_AROUND = {
    "gemma4": ("<|image>", "<image|>"),
    "mistral3": ("", "[IMG_END]"),
    **dict.fromkeys(_BY_SQUARES, ("<|vision_start|>", "<|vision_end|>")),
}
"""Tokens before and after a picture."""
AFTER = tuple(_AROUND)
"""Kinds whose text after a picture is compared."""
_PATCH = 16
_SMALL_PATCH = 4
_LINES, _BREAK = 3, 454
"""Rows of tokens that a picture becomes under Ministral 3, and the token between them."""


def make(kind: str, folder: Path) -> Any:
    """Write a model to `folder` and return it, in float32."""
    import torch

    torch.manual_seed(0)
    model = MODELS[kind]().float().eval()
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
    values = {
        "image_mean": MEAN,
        "image_std": STD,
        "do_normalize": True,
        "size": {"longest_edge": SIDE},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(values | changes))


def picture(kind: str) -> Any:
    """A picture of the size that a tower takes as it is: u8 [height, width, 3]."""
    rng = np.random.default_rng(3)
    height, width = _SIZES.get(kind, (SIDE, SIDE))
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def checkpoint(kind: str, folders: pytest.TempPathFactory) -> Path:
    """A checkpoint, which is made once for every test: copy what is to be changed."""

    place = made_once.shared_folder(folders) / f"seeing-{kind}"
    return made_once.once(place, lambda folder: make(kind, folder))


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


def inputs(kind: str, pixels: Any) -> dict[str, Any]:
    """A picture as transformers' model of a kind takes it, by the names of its arguments."""
    import torch

    values = scaled(pixels)
    if kind in _BY_SQUARES:
        rows, grid = patches(values)
        return {"pixel_values": rows, "image_grid_thw": grid}
    if kind == "gemma4":
        rows, places = small_patches(values)
        return {"pixel_values": rows, "image_position_ids": places}
    picture = torch.tensor(values.transpose(2, 0, 1)[None])
    if kind == "mistral3":
        return {"pixel_values": picture, "image_sizes": torch.tensor([values.shape[:2]])}
    return {"pixel_values": picture[None] if kind == "idefics3" else picture}


def seen(kind: str, model: Any, pixels: Any) -> Any:
    """What a model's tower and projector make of a picture: f32 [tokens, width].

    With states for the first layers of text, where there are some, in the same rows.
    """
    import torch

    with torch.no_grad():
        made = model.model.get_image_features(**inputs(kind, pixels))
    parts = [made.pooler_output, *(getattr(made, "deepstack_features", None) or ())]
    rows = torch.cat(
        [torch.cat(list(p)) if isinstance(p, list | tuple) else p.flatten(0, -2) for p in parts], 1
    ).numpy()
    if kind == "mistral3":
        # A token of text after each row but the last.
        between = model.get_input_embeddings().weight[_BREAK].detach().numpy()[None]
        lines = np.split(rows, _LINES)
        return np.concatenate([part for line in lines for part in (line, between)][:-1])
    # llama.cpp reads the whole first, then its one tile, which is the same.
    return np.concatenate([rows, rows]) if kind == "idefics3" else rows


def after(kind: str, model: Any, folder: Path, pixels: Any, text: str) -> Any:
    """Logits of transformers for the token after a picture and a text: f32 [vocabulary]."""
    import torch
    import transformers

    def ids(text: str, special: bool = False) -> list[int]:
        return tokenizer(text, add_special_tokens=special).input_ids

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    begin, end = _AROUND[kind]
    mark = model.config.image_token_id
    rows = [mark] * len(seen(kind, model, pixels))
    if kind == "mistral3":
        line = (len(rows) + 1) // _LINES
        rows[line - 1 :: line] = [_BREAK] * (_LINES - 1)
    prompt = torch.tensor([ids(begin, True) + rows + ids(end + text)])
    more = {"mm_token_type_ids": (prompt == mark).int()}
    with torch.no_grad():
        made = model(input_ids=prompt, **inputs(kind, pixels), **more)
    return made.logits[0, -1].numpy()


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


def small_patches(values: Any) -> tuple[Any, Any]:
    """A picture as Gemma 4 takes it: rows of pixels of a patch, and where each patch lies.

    Args:
        values: f32 [height, width, 3].
    """
    import torch

    height, width = (size // _SMALL_PATCH for size in values.shape[:2])
    parts = values.reshape(height, _SMALL_PATCH, width, _SMALL_PATCH, 3)
    rows = parts.transpose(0, 2, 1, 3, 4).reshape(1, height * width, -1)
    places = [[x, y] for y in range(height) for x in range(width)]
    return torch.tensor(rows), torch.tensor([places])

"""Towers whose config or tensors lie are refused by what is wrong, before a weight is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import tiny_vision
from safetensors.numpy import load_file, save_file

import kanna
from kanna._util.progress import Silent
from kanna.errors import KannaError, SourceError, UnsupportedError

# Of each tower: a part of config.json ("" is the whole), what is changed in it, what the error has.
LIES: dict[str, list[tuple[str, dict[str, Any], str]]] = {
    "gemma4": [
        ("vision_config", {"head_dim": 32}, "heads of 32 values"),
        ("vision_config", {"num_attention_heads": 5}, "5 heads"),
        ("vision_config", {"num_key_value_heads": 2}, "2 heads of keys"),
        ("vision_config", {"pooling_kernel_size": 10**9}, "image_size|pooling_kernel_size"),
        ("vision_config", {"pooling_kernel_size": "3"}, "image_size|pooling_kernel_size"),
        (
            "vision_config",
            {"position_embedding_size": 79},
            "position_embedding_table has the shape",
        ),
        ("vision_config", {"patch_size": 5}, "input_proj.weight has the shape"),
        ("vision_config", {"use_clipped_linears": False}, "no place"),
        ("vision_config", {"standardize": False}, "std_bias|std_scale"),
        ("vision_config", {"hidden_activation": "relu"}, "hidden_activation"),
        ("vision_config", {"rope_parameters": {"rope_theta": 10000.0}}, "rope_theta"),
        ("vision_config", {"num_hidden_layers": 4}, "layers.3.*missing"),
        ("vision_config", {"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ("text_config", {"use_bidirectional_attention": None}, "use_bidirectional_attention"),
        ("text_config", {"pad_token_id": 3}, "pad_token_id"),
        ("text_config", {"hidden_size": 128}, "embedding_projection.weight has the shape"),
    ],
    "mistral3": [
        ("", {"spatial_merge_size": 3}, "merging_layer.weight has the shape"),
        ("", {"spatial_merge_size": 0}, "spatial_merge_size"),
        ("", {"multimodal_projector_bias": True}, "linear_1.bias.*missing"),
        ("", {"vision_feature_layer": [-1, -2]}, "vision_feature_layer"),
        ("", {"projector_hidden_act": "relu"}, "projector_hidden_act"),
        ("vision_config", {"hidden_act": "relu"}, "hidden_act"),
        ("vision_config", {"head_dim": 32}, "head_dim = 32"),
        ("vision_config", {"num_attention_heads": 32, "head_dim": None}, "heads of 2 values"),
        ("vision_config", {"rope_parameters": {"rope_theta": 100.0}}, "rope_theta"),
        ("vision_config", {"patch_size": 16}, "patch_conv.weight has the shape"),
        ("vision_config", {"image_size": 7}, "patches of 14 in pictures of 7"),
        ("vision_config", {"num_hidden_layers": 4}, "layers.3.*missing"),
        ("text_config", {"rms_norm_eps": 1e-6}, "rms_norm_eps"),
        ("text_config", {"hidden_size": 128}, "linear_1.weight has the shape"),
    ],
    "qwen35": [
        ("vision_config", {"deepstack_visual_indexes": [1]}, "deepstack_visual_indexes"),
        ("vision_config", {"num_position_embeddings": 15}, "num_position_embeddings"),
        ("vision_config", {"spatial_merge_size": 3}, "spatial_merge_size"),
        ("vision_config", {"temporal_patch_size": 1}, "temporal_patch_size"),
        ("vision_config", {"num_heads": 32}, "heads of 2 values"),
        ("vision_config", {"depth": 2}, "no place"),
        ("vision_config", {"hidden_size": 68}, "has the shape"),
        ("text_config", {"hidden_size": 128}, "linear_fc2.weight has the shape"),
    ],
}
# A tensor of each tower whose shape another one gets, and one that is left out.
TENSORS = {
    "gemma4": (
        "model.vision_tower.encoder.layers.1.mlp.up_proj.input_max",
        "model.vision_tower.std_scale",
    ),
    "mistral3": (
        "vision_tower.transformer.layers.1.attention.q_proj.weight",
        "multi_modal_projector.norm.weight",
    ),
    "qwen35": ("model.visual.blocks.1.attn.qkv.weight", "model.visual.merger.norm.weight"),
}


def refused(folder: Path) -> pytest.ExceptionInfo[KannaError]:
    with pytest.raises(KannaError) as error:
        kanna.convert(folder, None, mmproj=True, dry_run=True, progress=Silent())
    return error


@pytest.mark.parametrize("kind", LIES)
def test_a_config_that_lies_is_refused(
    kind: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tiny_vision.checkpoint(kind, tmp_path_factory)
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    honest = json.loads((copy / "config.json").read_text())
    for part, changes, words in LIES[kind]:
        lie = honest | ({part: honest[part] | changes} if part else changes)
        (copy / "config.json").write_text(json.dumps(lie))
        assert refused(copy).match(words), changes


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_that_lie_are_named(
    kind: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tiny_vision.checkpoint(kind, tmp_path_factory)
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    path = copy / "model.safetensors"
    honest = load_file(path)
    misshapen, absent = TENSORS[kind]
    for changed, words in (
        (honest | {misshapen: np.ones((3, 2), np.float32)}, "has the shape"),
        ({k: v for k, v in honest.items() if k != absent}, "missing"),
        (honest | {f"{absent}.adapter": np.ones(3, np.float32)}, "no place"),
        (honest | {absent: honest[absent].astype(np.int32)}, "stored as i32"),
    ):
        save_file(changed, path)
        error = refused(copy)
        assert error.match(words)
        assert isinstance(error.value, UnsupportedError)


def test_a_token_between_rows_must_be_there(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tiny_vision.checkpoint("mistral3", tmp_path_factory)
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    path, name = copy / "model.safetensors", "language_model.model.embed_tokens.weight"
    tensors = load_file(path)
    for table, words in (
        (tensors[name][:300], "IMG_BREAK. is token"),
        (tensors[name][:, :100], "has the shape"),
        (None, "embeddings of tokens are missing"),
    ):
        others = {k: v for k, v in tensors.items() if k != name}
        save_file(others if table is None else others | {name: np.ascontiguousarray(table)}, path)
        assert refused(copy).match(words)
    save_file(tensors, path)
    tokenizer = copy / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("[IMG_BREAK]", "[ROW]"))
    assert isinstance(refused(copy).value, SourceError)
    tokenizer.unlink()
    assert isinstance(refused(copy).value, SourceError)

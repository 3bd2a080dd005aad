"""Adapters of tiny models that PEFT itself makes, with values that change what is computed."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import tiny_models

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterRecipe:
    """What PEFT is asked for.

    Attributes:
        config: Keys of its LoraConfig.
        family: Recipe of the base, in `tiny_models`.
        merges: Whether PEFT's own merge gives what it computes unmerged.
    """

    config: dict[str, Any] = field(default_factory=dict[str, Any])
    family: str = "llama"
    merges: bool = True


RECIPES: dict[str, AdapterRecipe] = {
    "lora": AdapterRecipe(config={"target_modules": [*ATTENTION, "up_proj"]}),
    "rslora": AdapterRecipe(config={"target_modules": ["q_proj"], "use_rslora": True}),
    "alpha-pattern": AdapterRecipe(
        config={
            "target_modules": ["q_proj", "down_proj"],
            "alpha_pattern": {"layers.1.mlp.down_proj": 64, r".*\.q_proj": 3},
        }
    ),
    "rank-pattern": AdapterRecipe(
        config={
            "target_modules": ["k_proj", "gate_proj"],
            "rank_pattern": {"k_proj": 2, "model.layers.0.mlp.gate_proj": 7},
            "use_rslora": True,
        }
    ),
    "dora": AdapterRecipe(config={"target_modules": [*ATTENTION, "up_proj"], "use_dora": True}),
    "modules-to-save": AdapterRecipe(
        config={"target_modules": ["v_proj"], "modules_to_save": ["lm_head", "embed_tokens"]}
    ),
    "embedding": AdapterRecipe(config={"target_modules": ["embed_tokens", "lm_head", "q_proj"]}),
    "tokens": AdapterRecipe(
        config={"target_modules": ["q_proj"], "trainable_token_indices": [3, 300]}
    ),
    "biases": AdapterRecipe(
        config={"target_modules": ["q_proj"], "bias": "lora_only"}, family="qwen2"
    ),
    "bias-of-b": AdapterRecipe(
        config={"target_modules": ["q_proj"], "lora_bias": True}, family="qwen2"
    ),
    "tied-head": AdapterRecipe(
        config={"target_modules": ["lm_head", "q_proj"]}, family="llama-tied", merges=False
    ),
    "tied-embedding": AdapterRecipe(
        config={"target_modules": ["embed_tokens"]}, family="llama-tied", merges=False
    ),
    "tied-tokens": AdapterRecipe(
        config={"target_modules": ["q_proj"], "trainable_token_indices": [3, 300]},
        family="llama-tied",
    ),
    "tied-both": AdapterRecipe(
        # PEFT's own merge adds the change to the one matrix twice.
        config={"target_modules": ["embed_tokens"], "ensure_weight_tying": True},
        family="llama-tied",
        merges=False,
    ),
    "fused": AdapterRecipe(
        config={"target_modules": ["qkv_proj", "gate_up_proj", "down_proj"]}, family="phi3"
    ),
    "norms": AdapterRecipe(
        config={"target_modules": ["q_proj"], "modules_to_save": ["input_layernorm"]},
        family="gemma3",
    ),
}


def base(family: str, folder: Path) -> Path:
    """A tiny model; `llama-tied` is llama with one matrix for head and embedding."""
    if not (folder / "config.json").is_file():
        name = family.removesuffix("-tied")
        tied = {"tie_word_embeddings": True} if name != family else {}
        tiny_models.SMALL, before = {**tiny_models.SMALL, **tied}, tiny_models.SMALL
        try:
            tiny_models.make(name, folder)
        finally:
            tiny_models.SMALL = before
    return folder


def make(base_folder: Path, folder: Path, *, seed: int = 5, **config: Any) -> Any:
    """Save an adapter that PEFT makes of a base, and return PEFT's model, unmerged, in float32."""
    import peft
    import torch
    import transformers

    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings: dict[str, Any] = {"r": 4, "lora_alpha": 6, **config}
        wrapped = peft.get_peft_model(
            model, peft.LoraConfig(task_type="CAUSAL_LM", **settings)
        ).eval()
        with torch.no_grad():
            for name, value in wrapped.named_parameters():
                if value.requires_grad:
                    scale = 0.3 if "magnitude" in name else 0.08
                    value.add_(torch.randn_like(value) * scale * (1 if value.ndim > 1 else 0.3))
        wrapped.save_pretrained(str(folder))
    return wrapped


def words_to_say(path: Path, count: int = 60) -> None:
    """Prompts, each with the word that its answer repeats."""
    words = ["fox", "dog", "once", "time", "quick", "brown"]
    lines = [
        {"prompt": f"Say {words[i % 6]} {i}", "completion": f" {words[i % 6]}" * 3}
        for i in range(count)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))


def change_config(folder: Path, **values: Any) -> None:
    """Change keys of adapter_config.json."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def two(folder: Path, first: str) -> Any:
    """PEFT's model with two adapters, `default` and `style`, which engines switch by request.

    Args:
        folder: Gets the base as `source`, the second one as `style`.
        first: Name of the folder of the first one.
    """
    with pytest.MonkeyPatch.context() as patch:
        small = {"intermediate_size": 640, "vocab_size": 544, "num_hidden_layers": 2}
        patch.setattr(tiny_models, "SMALL", tiny_models.SMALL | small)
        source = base("smollm", folder / "source")
    modules = {"target_modules": ["q_proj", "v_proj", "down_proj"]}
    model = make(source, folder / first, seed=5, **modules)
    make(source, folder / "style", seed=6, **modules, r=3, use_rslora=True)
    model.load_adapter(str(folder / "style"), "style")
    return model


def of_peft(model: Any, names: list[str], ids: list[int]) -> np.ndarray:
    """Logits of PEFT with some adapters at once, f32 [len(ids), vocabulary]."""
    import torch

    torch.set_num_threads(1)
    with torch.no_grad():
        if not names:
            with model.disable_adapter():
                return model(torch.tensor([ids])).logits[0].numpy()
        model.base_model.set_adapter(names)
        return model(torch.tensor([ids])).logits[0].numpy()

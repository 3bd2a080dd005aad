"""Tiny random Hugging Face models, made by recipe, with real (small) tokenizers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from helpers import tiny_dense, tiny_hybrid
from helpers.tiny_recipe import SMALL

TEXT = (
    "The quick brown fox jumps over the lazy dog. Once upon a time there was a small model that "
    "could read 1234 numbers, write code like `for i in range(10): print(i)` and say hello in many "
    "languages: bonjour, hola, こんにちは, привет, 你好, مرحبا. Emojis too 🙂🚀. "
    "It's what we've wanted!\n"
)
RECIPES = tiny_dense.RECIPES | tiny_hybrid.RECIPES


def make(name: str, folder: Path, seed: int = 0) -> Any:
    """Write recipe `name` to `folder` as a Hugging Face model and return it, in float32."""
    import torch
    import transformers

    recipe = RECIPES[name]
    torch.manual_seed(seed)
    # A config with parts has its sizes in that of the text.
    values = recipe.values if "text_config" in recipe.values else {**SMALL, **recipe.values}
    config = getattr(transformers, recipe.config)(**values, torch_dtype="float32")
    config._attn_implementation = "eager"
    model = getattr(transformers, recipe.model)(config).float().eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            # Random norms and biases, so that a lost offset or a swapped vector shows.
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
                if parameter_name.endswith(("q_norm.weight", "k_norm.weight")):
                    parameter.mul_(recipe.heads)
            elif "embed" not in parameter_name:
                parameter.mul_(3.0)  # far from uniform logits
    model.save_pretrained(folder)
    if recipe.next_tokens:
        add_next_tokens(folder, layer=1)
    write_tokenizer(recipe.tokenizer, folder, config.get_text_config().vocab_size)
    return model


def add_next_tokens(folder: Path, layer: int) -> None:
    """Add a head that predicts the token after the next, built as layer `layer` is."""
    import torch
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = load_file(path)
    like = f"model.layers.{layer}."
    inner = {n.removeprefix(like): t for n, t in tensors.items() if n.startswith(like)}
    tensors |= {f"mtp.layers.0.{n}": torch.randn_like(t) * 0.1 for n, t in inner.items()}
    hidden = tensors["model.norm.weight"].shape[0]
    tensors["mtp.fc.weight"] = torch.randn(hidden, 2 * hidden) * 0.05
    for name in ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm"):
        tensors[f"mtp.{name}.weight"] = torch.randn(hidden) * 0.1
    save_file(tensors, path, {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["mtp_num_hidden_layers"] = 1
    (folder / "config.json").write_text(json.dumps(config))


SPECIAL = ["<unk>", "<s>", "</s>"]


def write_tokenizer(kind: str, folder: Path, size: int) -> None:
    """Write tokenizer.json and tokenizer_config.json.

    Args:
        kind: `spm` for one like SentencePiece's, else byte-level BPE with this pre-tokenizer.
        folder: Where they are written.
        size: Rows of the embedding; the tokenizer has fewer tokens.
    """
    from tokenizers import AddedToken
    from tokenizers.processors import TemplateProcessing

    tokenizer, trainer = (
        _spm_tokenizer(size - 12) if kind == "spm" else _bpe_tokenizer(kind, size - 12)
    )
    tokenizer.train_from_iterator([TEXT] * 4, trainer)
    tokenizer.add_special_tokens(
        [AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=True)]
    )
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    if kind == "spm":
        _byte_types(folder / "tokenizer.json")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "chat_template": (
            "{% for m in messages %}<|im_start|>{{ m.role }}\n"
            "{{ m.content }}<|im_end|>\n{% endfor %}"
        ),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _spm_tokenizer(size: int) -> tuple[Any, Any]:
    """A tokenizer like SentencePiece's with byte fallback, and its trainer for `size` tokens."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    text = tokenizer.normalizer.normalize_str(TEXT)
    # The trainer takes characters of one count in any order: which are left out would change.
    alphabet = sorted({*text}, key=lambda character: (-text.count(character), character))[:64]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=SPECIAL + [f"<0x{i:02X}>" for i in range(256)],
        initial_alphabet=alphabet,
        limit_alphabet=64,
        show_progress=False,
    )
    return tokenizer, trainer


def _bpe_tokenizer(kind: str, size: int) -> tuple[Any, Any]:
    """A byte-level BPE tokenizer with the pre-tokenizer `kind`, and its trainer."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    from kanna.tokenizer import _pre

    patterns = {
        "llama-bpe": _pre.LLAMA3,
        "qwen2": _pre.QWEN2,
        "tekken": _pre.TEKKEN,
        "gpt-4o": _pre.GPT4O,
    }
    tokenizer = Tokenizer(models.BPE(ignore_merges=kind in ("llama-bpe", "tekken")))
    if kind == "smollm":
        steps = [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    else:
        steps = [
            pre_tokenizers.Split(Regex(patterns[kind]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    return tokenizer, trainer


def _byte_types(path: Path) -> None:
    """The trainer can only add byte pieces as special tokens.

    Real files have them in the vocabulary alone.
    """
    data = json.loads(path.read_text())
    data["added_tokens"] = [a for a in data["added_tokens"] if not a["content"].startswith("<0x")]
    path.write_text(json.dumps(data, ensure_ascii=False))

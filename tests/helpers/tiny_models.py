"""Tiny random Hugging Face models, one recipe per family, with real (small) tokenizers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TEXT = (
    "The quick brown fox jumps over the lazy dog. Once upon a time there was a small model that "
    "could read 1234 numbers, write code like `for i in range(10): print(i)` and say hello in many "
    "languages: bonjour, hola, こんにちは, привет, 你好, مرحبا. Emojis too 🙂🚀. "
    "It's what we've wanted!\n"
)
SMALL = {
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}


@dataclass(frozen=True)
class Recipe:
    """How to make one tiny model.

    Its classes in transformers, config differences, tokenizer, window.
    """

    family: str
    model: str
    config: str
    values: dict[str, Any] = field(default_factory=dict)
    tokenizer: str = "spm"
    long: int = 160
    noise: float = 1.0
    """How much more arithmetic costs than elsewhere: states add up what every token brings."""
    heads: float = 1.0
    """What norms of q and k are multiplied by: without a scale, attention is as sharp as they."""
    next_tokens: bool = False
    """A head for the token after the next is added, which transformers has no class for."""
    routed: bool = False
    """Tokens are routed to experts."""
    window_lost: bool = False
    """llama.cpp attends to everything where the model has a window.

    Equal to the model without one.
    """


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
GEMMA = {
    "head_dim": 64,
    "query_pre_attn_scalar": 64,
    "sliding_window": 32,
    "tie_word_embeddings": True,
}
PHI_FACTORS = {
    "rope_type": "longrope",
    "short_factor": [1.0 + 0.01 * i for i in range(24)],
    "long_factor": [1.0 + 0.3 * i for i in range(24)],
}

RECIPES: dict[str, Recipe] = {
    "llama": Recipe("llama", "LlamaForCausalLM", "LlamaConfig"),
    "llama-bias": Recipe(
        "llama", "LlamaForCausalLM", "LlamaConfig", {"attention_bias": True, "mlp_bias": True}
    ),
    "llama3": Recipe(
        "llama",
        "LlamaForCausalLM",
        "LlamaConfig",
        {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True, "head_dim": 64},
        tokenizer="llama-bpe",
    ),
    "llama-linear": Recipe(
        "llama",
        "LlamaForCausalLM",
        "LlamaConfig",
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6}},
    ),
    "smollm": Recipe(
        "llama",
        "LlamaForCausalLM",
        "LlamaConfig",
        {"tie_word_embeddings": True},
        tokenizer="smollm",
    ),
    "mistral": Recipe("mistral", "MistralForCausalLM", "MistralConfig", {"sliding_window": None}),
    "mistral-nemo": Recipe(
        "mistral",
        "MistralForCausalLM",
        "MistralConfig",
        {"sliding_window": None, "head_dim": 48, "num_attention_heads": 8},
        tokenizer="tekken",
    ),
    "mistral-window": Recipe(
        "mistral", "MistralForCausalLM", "MistralConfig", {"sliding_window": 64}, window_lost=True
    ),
    "qwen2": Recipe("qwen2", "Qwen2ForCausalLM", "Qwen2Config", tokenizer="qwen2"),
    "qwen2-yarn": Recipe(
        "qwen2",
        "Qwen2ForCausalLM",
        "Qwen2Config",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "rope_theta": 1e6,
                "original_max_position_embeddings": 256,
            }
        },
        tokenizer="qwen2",
    ),
    "qwen3": Recipe(
        "qwen3",
        "Qwen3ForCausalLM",
        "Qwen3Config",
        {"head_dim": 96, "tie_word_embeddings": True},
        tokenizer="qwen2",
    ),
    "smollm3": Recipe(
        "smollm3",
        "SmolLM3ForCausalLM",
        "SmolLM3Config",
        {"num_hidden_layers": 5, "tie_word_embeddings": True},
        tokenizer="llama-bpe",
    ),
    "granite": Recipe(
        "granite",
        "GraniteForCausalLM",
        "GraniteConfig",
        {
            "attention_multiplier": 0.1,
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.22,
            "logits_scaling": 2.5,
        },
        tokenizer="qwen2",
    ),
    "lfm2": Recipe(
        "lfm2",
        "Lfm2ForCausalLM",
        "Lfm2Config",
        {
            "num_hidden_layers": 4,
            "layer_types": ["conv", "full_attention", "conv", "full_attention"],
            "block_multiple_of": 32,
            "tie_word_embeddings": True,
        },
        tokenizer="llama-bpe",
        long=300,
    ),
    "olmo2": Recipe("olmo2", "Olmo2ForCausalLM", "Olmo2Config", tokenizer="qwen2"),
    "olmo3": Recipe(
        "olmo2",
        "Olmo3ForCausalLM",
        "Olmo3Config",
        {
            "num_hidden_layers": 4,
            "sliding_window": 64,
            "rope_parameters": {
                "full_attention": {
                    "rope_type": "yarn",
                    "rope_theta": 1e4,
                    "factor": 4.0,
                    "original_max_position_embeddings": 256,
                },
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
        tokenizer="qwen2",
    ),
    "ernie": Recipe("ernie4_5", "Ernie4_5ForCausalLM", "Ernie4_5Config", {"head_dim": 64}),
    "hunyuan": Recipe(
        "hunyuan",
        "HunYuanDenseV1ForCausalLM",
        "HunYuanDenseV1Config",
        {
            "head_dim": 64,
            "rope_parameters": {
                "rope_type": "dynamic",
                "rope_theta": 1e4,
                "factor": 1.0,
                "alpha": 1e3,
            },
        },
        tokenizer="qwen2",
    ),
    "exaone4": Recipe(
        "exaone4",
        "Exaone4ForCausalLM",
        "Exaone4Config",
        {
            "sliding_window": None,
            "layer_types": ["full_attention"] * 3,
            "rope_parameters": LLAMA3_ROPE,
        },
        tokenizer="qwen2",
    ),
    "ministral3": Recipe(
        "ministral3",
        "Ministral3ForCausalLM",
        "Ministral3Config",
        {
            "head_dim": 64,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1e6,
                "factor": 16.0,
                "original_max_position_embeddings": 64,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "llama_4_scaling_beta": 0.1,
            },
        },
        tokenizer="tekken",
    ),
    "qwen35": Recipe(
        "qwen35",
        "Qwen3_5ForCausalLM",
        "Qwen3_5TextConfig",
        {
            "num_hidden_layers": 5,
            "head_dim": 64,
            "linear_key_head_dim": 32,
            "linear_value_head_dim": 32,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 6,
            "layer_types": [
                "linear_attention",
                "full_attention",
                "linear_attention",
                "linear_attention",
                "full_attention",
            ],
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "partial_rotary_factor": 0.25,
                "mrope_section": [3, 3, 2],
                "mrope_interleaved": True,
            },
        },
        tokenizer="qwen2",
        long=300,
        noise=3.0,
        next_tokens=True,
    ),
    "qwen3-moe": Recipe(
        "qwen3moe",
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        {
            "head_dim": 96,
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 96,
            "norm_topk_prob": True,
        },
        tokenizer="qwen2",
        routed=True,
    ),
    "gemma2": Recipe(
        "gemma2", "Gemma2ForCausalLM", "Gemma2Config", GEMMA | {"num_hidden_layers": 4}
    ),
    "gemma3": Recipe(
        "gemma3", "Gemma3ForCausalLM", "Gemma3TextConfig", GEMMA | {"num_hidden_layers": 7}
    ),
    "gemma3-pattern": Recipe(
        "gemma3",
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        GEMMA
        | {
            "num_hidden_layers": 4,
            "layer_types": [
                "sliding_attention",
                "full_attention",
                "sliding_attention",
                "full_attention",
            ],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
    "gemma4": Recipe(
        "gemma4",
        "Gemma4ForCausalLM",
        "Gemma4TextConfig",
        {
            "num_hidden_layers": 7,
            "num_key_value_heads": 1,
            "head_dim": 64,
            "global_head_dim": 128,
            "hidden_size_per_layer_input": 32,
            "vocab_size_per_layer_input": 512,
            "num_kv_shared_layers": 2,
            "use_double_wide_mlp": True,
            "sliding_window": 32,
            "final_logit_softcapping": 30.0,
            "layer_types": ["sliding_attention"] + ["sliding_attention", "full_attention"] * 3,
            "tie_word_embeddings": True,
        },
        heads=0.3,
    ),
    "gemma4-wide": Recipe(
        "gemma4",
        "Gemma4ForCausalLM",
        "Gemma4TextConfig",
        {
            "num_hidden_layers": 4,
            "head_dim": 64,
            "global_head_dim": 128,
            "num_global_key_value_heads": 1,
            "attention_k_eq_v": True,
            "hidden_size_per_layer_input": 0,
            "sliding_window": 32,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "tie_word_embeddings": True,
        },
        heads=0.3,
    ),
    "phi3": Recipe("phi3", "Phi3ForCausalLM", "Phi3Config", {"sliding_window": None}),
    "phi3-window": Recipe(
        "phi3", "Phi3ForCausalLM", "Phi3Config", {"sliding_window": 64}, window_lost=True
    ),
    "phi4-mini": Recipe(
        "phi3",
        "Phi3ForCausalLM",
        "Phi3Config",
        {
            "sliding_window": None,
            "tie_word_embeddings": True,
            "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 256,
            "rope_parameters": PHI_FACTORS | {"rope_theta": 10000.0, "partial_rotary_factor": 0.75},
        },
        tokenizer="gpt-4o",
        long=300,
    ),
}


def make(name: str, folder: Path, seed: int = 0) -> Any:
    """Write recipe `name` to `folder` as a Hugging Face model and return it, in float32."""
    import torch
    import transformers

    recipe = RECIPES[name]
    torch.manual_seed(seed)
    config = getattr(transformers, recipe.config)(
        **{**SMALL, **recipe.values}, torch_dtype="float32"
    )
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
    write_tokenizer(recipe.tokenizer, folder, config.vocab_size)
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

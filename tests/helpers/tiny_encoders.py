"""Tiny random encoders as Hugging Face folders, one recipe per kind, with small tokenizers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.tiny_models import TEXT, write_tokenizer

SMALL = {
    "vocab_size": 320,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
MODES = {"mean": "mean_tokens", "cls": "cls_token", "last": "lasttoken"}


@dataclass(frozen=True)
class Recipe:
    """How to make one tiny encoder."""

    family: str
    model: str
    config: str
    tokenizer: Callable[[Path, int], None]
    values: dict[str, Any] = field(default_factory=dict)
    pooling: str = "mean"
    dense: int = 0
    """Width between two layers after pooling; 0: there are none."""


def words(folder: Path, size: int, *, lower: bool = True) -> None:
    """A WordPiece tokenizer like BERT's."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from tokenizers.processors import TemplateProcessing

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=size - 8,
        special_tokens=special,
        show_progress=False,
        initial_alphabet=[chr(i) for i in range(33, 127)],
    )
    tokenizer.train_from_iterator([TEXT] * 4, trainer)
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {f"{t[1:-1].lower()}_token": t for t in special}
    _write(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", **named})


def cased_words(folder: Path, size: int) -> None:
    """The same, that tells large letters from small ones."""
    words(folder, size, lower=False)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    _write(folder / "tokenizer_config.json", config | {"do_lower_case": False})


def ended(folder: Path, size: int) -> None:
    """A byte-level tokenizer that puts a token behind every text, as Qwen3-Embedding's does."""
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    write_tokenizer("qwen2", folder, size)
    path = str(folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.post_processor = TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 2)]
    )
    tokenizer.save(path)


def answering(folder: Path, size: int) -> None:
    """A byte-level tokenizer with the words that Qwen3-Reranker answers with."""
    write_tokenizer("qwen2", folder, size)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocab = tokenizer["model"]["vocab"]
    # The library numbers added tokens anew unless the vocabulary has them.
    vocab |= {a["content"]: a["id"] for a in tokenizer["added_tokens"]}
    for word in ("y", "ye", "yes", "n", "no"):
        if word not in vocab:
            vocab[word] = max(vocab.values()) + 1
    tokenizer["model"]["merges"] += [["y", "e"], ["ye", "s"], ["n", "o"]]
    tokenizer["post_processor"] = None
    _write(path, tokenizer)


def framed(folder: Path, size: int) -> None:
    """A tokenizer like SentencePiece's that frames every text, as EmbeddingGemma's does."""
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    write_tokenizer("spm", folder, size)
    path = str(folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    special = [("<s>", 1), ("</s>", 2)]
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=special
    )
    tokenizer.save(path)


def bytes_framed(folder: Path, size: int) -> None:
    """A byte-level tokenizer that frames every text, as RoBERTa's does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - 8,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT] * 4, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), add_prefix_space=False
    )
    _save(tokenizer, folder, special)


def pieces(folder: Path, size: int) -> None:
    """A Unigram tokenizer with SentencePiece's table of replacements, like XLM-R's."""
    import io

    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line + "." for line in TEXT.split(".") for _ in range(4)]),
        model_writer=trained,
        vocab_size=size - 40,
        hard_vocab_limit=False,
        model_type="unigram",
        character_coverage=1.0,
        minloglevel=2,
    )
    protocol: Any = sentencepiece_model_pb2
    model = protocol.ModelProto()
    model.ParseFromString(trained.getvalue())
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    vocab = [(t, 0.0) for t in special] + [(p.piece, p.score) for p in model.pieces[3:]]
    tokenizer = Tokenizer(models.Unigram([*vocab, ("<mask>", 0.0)], unk_id=3))
    tokenizer.normalizer = normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    tokenizer.add_special_tokens([*special, "<mask>"])
    _save(tokenizer, folder, [*special, "<mask>"])


def _save(tokenizer: Any, folder: Path, special: list[str]) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    named = dict(zip(("bos", "pad", "eos", "unk", "mask"), special, strict=True))
    config = {f"{name}_token": text for name, text in named.items()}
    _write(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "cls_token": "<s>", "sep_token": "</s>"}
        | config,
    )


KIN = {
    "vocab_size": 340,
    "max_position_embeddings": 290,
    "type_vocab_size": 1,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
DECODER = {
    "vocab_size": 512,
    "hidden_size": 128,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
RECIPES: dict[str, Recipe] = {
    "bert": Recipe("bert", "BertModel", "BertConfig", words),
    "bert-cls": Recipe("bert", "BertModel", "BertConfig", words, pooling="cls"),
    "bert-cased": Recipe("bert", "BertModel", "BertConfig", cased_words),
    "distilbert": Recipe(
        "distilbert", "DistilBertModel", "DistilBertConfig", words, {"hidden_dim": 160}
    ),
    "roberta": Recipe("bert", "RobertaModel", "RobertaConfig", bytes_framed, KIN, pooling="cls"),
    "xlm-r": Recipe("bert", "XLMRobertaModel", "XLMRobertaConfig", pieces, KIN, pooling="cls"),
    "modern-bert": Recipe(
        "modern_bert",
        "ModernBertModel",
        "ModernBertConfig",
        bytes_framed,
        KIN
        | {
            "num_hidden_layers": 5,
            "local_attention": 16,
            "max_position_embeddings": 512,
            "cls_token_id": 0,
            "sep_token_id": 2,
        },
    ),
    "modern-bert-pattern": Recipe(
        "modern_bert",
        "ModernBertModel",
        "ModernBertConfig",
        bytes_framed,
        KIN
        | {
            "local_attention": 24,
            "layer_types": ["sliding_attention", "full_attention", "full_attention"],
            "max_position_embeddings": 512,
            "cls_token_id": 0,
            "sep_token_id": 2,
        },
        pooling="cls",
    ),
    "nomic-bert": Recipe(
        "nomic_bert",
        "NomicBertModel",
        "NomicBertConfig",
        words,
        {"max_position_embeddings": 512, "rope_parameters": {"rope_theta": 1000.0}},
    ),
    "xlm-r-rank": Recipe(
        "bert",
        "XLMRobertaForSequenceClassification",
        "XLMRobertaConfig",
        pieces,
        KIN | {"num_labels": 1},
        pooling="rank",
    ),
    "qwen3-reranker": Recipe(
        "qwen3",
        "Qwen3ForCausalLM",
        "Qwen3Config",
        answering,
        DECODER | {"tie_word_embeddings": True},
        pooling="rank",
    ),
    "qwen3-embedding": Recipe(
        "qwen3", "Qwen3Model", "Qwen3Config", ended, DECODER | {"head_dim": 48}, pooling="last"
    ),
    "embedding-gemma": Recipe(
        "gemma_embedding",
        "Gemma3TextModel",
        "Gemma3TextConfig",
        framed,
        DECODER
        | {
            "num_hidden_layers": 7,
            "query_pre_attn_scalar": 32,
            "sliding_window": 24,
            "use_bidirectional_attention": True,
        },
        dense=192,
    ),
}


def make(name: str, folder: Path, seed: int = 0) -> Any:
    """Write recipe `name` to `folder` and return the model, in float32."""
    import torch
    import transformers

    recipe = RECIPES[name]
    torch.manual_seed(seed)
    config = getattr(transformers, recipe.config)(**{**SMALL, **recipe.values})
    model = getattr(transformers, recipe.model)(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.mul_(3.0)
    model.save_pretrained(folder)
    # The class halves the window whenever it reads a config; the published one has the whole.
    if window := recipe.values.get("sliding_window"):
        raw = json.loads((folder / "config.json").read_text())
        _write(folder / "config.json", raw | {"sliding_window": window})
    recipe.tokenizer(folder, config.vocab_size)
    between = _write_dense(folder, config.hidden_size, recipe.dense) if recipe.dense else ()
    if recipe.pooling != "rank":
        write_pooling(folder, recipe.pooling, config.hidden_size, *between)
    elif recipe.family == "qwen3":
        (folder / "README.md").write_text("# Qwen3-Reranker-tiny\n")
    return model


def _write_dense(folder: Path, width: int, wide: int) -> tuple[str, ...]:
    """Two layers after pooling, wider and back; their folders."""
    import torch
    from safetensors.torch import save_file

    sizes = {"2_Dense": (width, wide), "3_Dense": (wide, width)}
    for name, (columns, rows) in sizes.items():
        (folder / name).mkdir()
        weight = torch.randn(rows, columns) / columns**0.5
        save_file({"linear.weight": weight}, folder / name / "model.safetensors")
        values = {"in_features": columns, "out_features": rows, "bias": False}
        identity = {"activation_function": "torch.nn.modules.linear.Identity"}
        _write(folder / name / "config.json", values | identity)
    return tuple(sizes)


def write_pooling(folder: Path, mode: str, width: int, *between: str) -> None:
    """modules.json and the config of the pooling, as sentence-transformers saves them.

    Args:
        folder: Of the model.
        mode: A key of MODES.
        width: Of the vectors.
        between: Folders of dense layers between pooling and normalization.
    """
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling")]
    kinds += [(path, "Dense") for path in between]
    kinds.append((f"{len(kinds)}_Normalize", "Normalize"))
    steps = [
        {"idx": i, "name": str(i), "path": p, "type": f"sentence_transformers.models.{k}"}
        for i, (p, k) in enumerate(kinds)
    ]
    (folder / "1_Pooling").mkdir(exist_ok=True)
    _write(folder / "modules.json", steps)
    modes = {f"pooling_mode_{name}": key == mode for key, name in MODES.items()}
    _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **modes})


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")

"""BERT and its kin (RoBERTa, XLM-R): encoders with learned positions, norms after each part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kanna._util.typed import whole
from kanna.families._config import Config
from kanna.families._stored_rope import short
from kanna.families.base import Block, Family, Metadata, Problem
from kanna.families.blocks.ranking import RANKING, has_head
from kanna.families.stacked import Picked
from kanna.formats.views import Renamed
from kanna.model import Model, Tensor, boolean, f32, u32

ARCH = "bert"
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh")
"""llama.cpp computes the second of them for all: the first differs from it by 1e-3 at most."""
_LAYER = "encoder.layer.{}"
NAMES = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
    f"{_LAYER}.attention.self.query": "blk.{}.attn_q",
    f"{_LAYER}.attention.self.key": "blk.{}.attn_k",
    f"{_LAYER}.attention.self.value": "blk.{}.attn_v",
    f"{_LAYER}.attention.output.dense": "blk.{}.attn_output",
    f"{_LAYER}.attention.output.LayerNorm": "blk.{}.attn_output_norm",
    f"{_LAYER}.intermediate.dense": "blk.{}.ffn_up",
    f"{_LAYER}.output.dense": "blk.{}.ffn_down",
    f"{_LAYER}.output.LayerNorm": "blk.{}.layer_output_norm",
}
EMBEDDINGS = frozenset({"token_embd", "position_embd", "token_types"})
_WRAPPERS = ("bert.", "roberta.")
_OLD = {".gamma": ".weight", ".beta": ".bias"}
_OFFSET = {"roberta": 1, "xlm-roberta": 1}
"""Model types whose positions begin after the id of padding, by the id where none is named."""


def respell(name: str) -> str:
    """Without the prefix that models with a head have; norms as they are called since 2019."""
    for wrapper in _WRAPPERS:
        name = name.removeprefix(wrapper)
    for old, new in _OLD.items():
        if name.endswith(old):
            name = name.removesuffix(old) + new
    return name


def first_position(c: Config) -> int:
    """Row of the position embedding that the first token of a text gets."""
    padding = _OFFSET.get(str(c.get("model_type")))
    return 0 if padding is None else c.read("pad_token_id", whole(), padding) + 1


@dataclass(frozen=True, slots=True)
class Positions:
    """Learned positions: in a GGUF the first row is that of a text's first token."""

    def hf_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The same shape: sizes are those of Hugging Face."""
        return shape

    def to_gguf(self, name: str, tensor: Tensor, c: Config) -> Tensor:
        """Without the rows that no token gets."""
        first = first_position(c)
        if not first:
            return Renamed(name, tensor)
        rows = np.arange(first, tensor.shape[0])
        return Picked(name, tensor, (len(rows), tensor.shape[1]), rows)

    def to_hf(self, name: str, tensor: Tensor, c: Config) -> Tensor:
        """With as many rows before as no token gets; what they hold is never read."""
        first = first_position(c)
        if not first:
            return Renamed(name, tensor)
        rows = np.concatenate([np.zeros(first, np.int64), np.arange(tensor.shape[0])])
        return Picked(name, tensor, (len(rows), tensor.shape[1]), rows)


def metadata(c: Config) -> Metadata:
    """The `bert.*` keys."""
    return {
        f"{ARCH}.block_count": u32(c.layers),
        f"{ARCH}.context_length": u32(c.context - first_position(c)),
        f"{ARCH}.embedding_length": u32(c.hidden),
        f"{ARCH}.feed_forward_length": u32(c.ff),
        f"{ARCH}.attention.head_count": u32(c.heads),
        f"{ARCH}.attention.layer_norm_epsilon": f32(c.number("layer_norm_eps")),
        f"{ARCH}.attention.causal": boolean(False),
        "tokenizer.ggml.token_type_count": u32(c.count("type_vocab_size")),
    }


def checks(c: Config) -> list[Problem]:
    """llama.cpp gives every token the type of a first text, and sizes must divide."""
    problems: list[Problem] = []
    if c.hidden % c.heads:
        problems.append(
            Problem(
                f"config.json has hidden_size = {c.hidden} and num_attention_heads = {c.heads}",
                "a width that is a multiple of the heads",
                "fetch config.json again from where the model was published",
            )
        )
    if first_position(c) >= c.context:
        problems.append(
            Problem(
                f"config.json has pad_token_id = {c.get('pad_token_id')} and "
                f"max_position_embeddings = {c.context}",
                "positions after the id of padding",
                "fetch config.json again from where the model was published",
            )
        )
    if has_head(c) and c.count("type_vocab_size") > 1:
        problems.append(
            Problem(
                "the cross-encoder tells a question from a text by token types",
                "type_vocab_size = 1, as RoBERTa and XLM-R have it",
                "llama.cpp gives every token the first type: no stock runtime of GGUFs computes "
                "this model",
            )
        )
    if has_head(c) and (labels := _labels(c)) != 1:
        problems.append(
            Problem(
                f"the head tells {labels} classes apart",
                "one score, as rerankers give it",
                "llama.cpp serves no classes: run it in transformers or onnxruntime",
            )
        )
    return problems


def _labels(c: Config) -> int:
    """Outputs of the head, as transformers counts them."""
    names = c.get("id2label")
    return len(names) if isinstance(names, dict) else c.read("num_labels", whole(), 2)


def whole_config(model: Model) -> dict[str, Any]:
    """config.json: BERT's for WordPiece, else RoBERTa's, whose positions begin later."""
    kind = model.meta("tokenizer.ggml.model")
    words, ranks = kind == "bert", "cls.output.weight" in model.tensors
    name = "Bert" if words else "XLMRoberta" if kind == "t5" else "Roberta"
    model_type = {"Bert": "bert", "XLMRoberta": "xlm-roberta", "Roberta": "roberta"}[name]
    padding = model.whole("tokenizer.ggml.padding_token_id", 0 if words else 1)
    config: dict[str, Any] = {
        "architectures": [f"{name}ForSequenceClassification" if ranks else f"{name}Model"],
        "model_type": model_type,
        "vocab_size": model.tensors["token_embd.weight"].shape[0],
        "hidden_size": model.whole("{arch}.embedding_length", least=1),
        "intermediate_size": model.whole("{arch}.feed_forward_length", least=1),
        "num_hidden_layers": model.whole("{arch}.block_count", least=1),
        "num_attention_heads": model.whole("{arch}.attention.head_count", least=1),
        "layer_norm_eps": short(model.meta("{arch}.attention.layer_norm_epsilon")),
        "type_vocab_size": model.whole("tokenizer.ggml.token_type_count", 1, least=1),
        "hidden_act": ACTIVATIONS[0],
        "pad_token_id": padding,
        **({"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}} if ranks else {}),
    }
    after = first_position(Config(config, DEFAULTS))
    length = model.whole("{arch}.context_length", least=1)
    return config | {"max_position_embeddings": length + after}


DEFAULTS = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
}
FAMILY = Family(
    arch=ARCH,
    summary="BERT, RoBERTa, XLM-R: encoders with learned positions, norms after each part",
    also=(
        "all-MiniLM",
        "bge",
        "bge-reranker",
        "e5",
        "multilingual-e5",
        "CamemBERT",
    ),
    architectures=(
        "BertModel",
        "BertForMaskedLM",
        "RobertaModel",
        "RobertaForMaskedLM",
        "RobertaForSequenceClassification",
        "XLMRobertaModel",
        "XLMRobertaForMaskedLM",
        "XLMRobertaForSequenceClassification",
        "BertForSequenceClassification",
        "CamembertModel",
    ),
    model_type="bert",
    model_types=("roberta", "xlm-roberta", "camembert"),
    metadata=metadata,
    names=NAMES,
    blocks=(RANKING,),
    unused=Block(
        names=dict.fromkeys(
            (
                "embeddings",
                "pooler.dense",
                "cls.predictions",
                "cls.predictions.transform.dense",
                "cls.predictions.transform.LayerNorm",
                "cls.predictions.decoder",
                "cls.seq_relationship",
                "lm_head",
                "lm_head.dense",
                "lm_head.layer_norm",
                "lm_head.decoder",
            ),
            "",
        )
    ),
    biases=frozenset(n.rpartition(".")[2] for n in NAMES.values()) - EMBEDDINGS
    | {"cls", "cls.output"},
    shapes={
        "position_embd": ("positions", "hidden"),
        "token_types": ("types", "hidden"),
        "token_embd_norm": ("hidden",),
        "attn_output_norm": ("hidden",),
        "layer_output_norm": ("hidden",),
        "ffn_up": ("ff", "hidden"),
        "ffn_down": ("hidden", "ff"),
    },
    sizes=lambda c: {"positions": c.context, "types": c.count("type_vocab_size")},
    forms={"position_embd": Positions()},
    defaults=DEFAULTS,
    fixed={
        "hidden_act": ACTIVATIONS,
        "position_embedding_type": ("absolute",),
        "is_decoder": (False,),
    },
    reads=frozenset(
        {"layer_norm_eps", "type_vocab_size", "attention_probs_dropout_prob", "pooler_fc_size"}
    ),
    rope_types=frozenset(),
    checks=checks,
    encodes=True,
    ranks=has_head,
    respell=respell,
    whole_config=whole_config,
)

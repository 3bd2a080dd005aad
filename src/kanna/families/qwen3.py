"""Qwen3 (dense): a norm on every head of q and k, a head size of its own."""

from __future__ import annotations

from kanna.families import qwen2
from kanna.families._config import Config
from kanna.families._keys import common
from kanna.families.base import NAMES, Family, Metadata, Ranking

ARCH = "qwen3"


def metadata(c: Config) -> Metadata:
    """The `qwen3.*` keys."""
    return common(ARCH, c)


RANKING = Ranking(
    name="qwen3-reranker",
    words=("yes", "no"),
    prompt=(
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query "
        'and the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
        "<|im_start|>user\n<Instruct>: Given a web search query, retrieve relevant passages that "
        "answer the query\n<Query>: {query}\n<Document>: {document}<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    ),
)
"""As the models' cards give it: what they were trained on, to the letter."""
FAMILY = Family(
    arch=ARCH,
    summary="Qwen3 (dense): a norm on every head of q and k, a head size of its own",
    also=(
        "DeepSeek-R1-0528-Qwen3",
        "Qwen3-Embedding",
        "Qwen3-Reranker",
    ),
    architectures=("Qwen3ForCausalLM", "Qwen3Model"),
    model_type="qwen3",
    metadata=metadata,
    names=NAMES
    | {
        "model.layers.{}.self_attn.q_norm": "blk.{}.attn_q_norm",
        "model.layers.{}.self_attn.k_norm": "blk.{}.attn_k_norm",
    },
    optional=frozenset({"attn_q.bias", "attn_k.bias", "attn_v.bias"}),
    defaults=qwen2.DEFAULTS | {"head_dim": 128},
    fixed={"hidden_act": ("silu", "swish")},
    reads=qwen2.READS,
    bias_flags={"attention_bias": ("attn_q", "attn_k", "attn_v")},
    checks=qwen2.checks,
    ranking=RANKING,
)

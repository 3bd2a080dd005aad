"""Families: what a model is called in Hugging Face and in GGUF, one data file per architecture.

load_model(source) → Model    check(source) → problems    names() → families that exist
to_hf(model) → a Hugging Face folder's config, tensors and tokenizer files
"""

from kanna.families._load import check, load_model
from kanna.families._registry import family_of, get, names
from kanna.families.base import Problem
from kanna.families.export import (
    COMPUTED,
    gguf_view,
    head_dim_of,
    hf_config,
    hf_names,
    hf_view,
    to_hf,
)

__all__ = [
    "COMPUTED",
    "Problem",
    "check",
    "family_of",
    "get",
    "gguf_view",
    "head_dim_of",
    "hf_config",
    "hf_names",
    "hf_view",
    "load_model",
    "names",
    "to_hf",
]

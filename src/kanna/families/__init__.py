"""Families: what a model is called in Hugging Face and in GGUF, one data file per architecture.

load_model(source) → Model    check(source) → problems    names() → families that exist
to_hf(model) → a Hugging Face folder's config, tensors and tokenizer files
"""

from kanna.families._bounds import check_stored
from kanna.families._load import check, load_decoder, load_for_gguf, load_model, require_tokenizer
from kanna.families._mapping import same_values
from kanna.families._places import text_name
from kanna.families._refusals import require
from kanna.families._registry import (
    family_of,
    family_of_model,
    get,
    has_head,
    names,
    other_names,
    require_runtime,
)
from kanna.families.base import Problem
from kanna.families.export import (
    COMPUTED,
    column_order,
    end_ids,
    gguf_factors,
    gguf_view,
    head_dim_of,
    hf_config,
    hf_names,
    hf_parts,
    hf_view,
    side_files,
    to_hf,
)

__all__ = [
    "COMPUTED",
    "Problem",
    "check",
    "check_stored",
    "column_order",
    "end_ids",
    "family_of",
    "family_of_model",
    "get",
    "gguf_factors",
    "gguf_view",
    "has_head",
    "head_dim_of",
    "hf_config",
    "hf_names",
    "hf_parts",
    "hf_view",
    "load_decoder",
    "load_for_gguf",
    "load_model",
    "names",
    "other_names",
    "require",
    "require_runtime",
    "require_tokenizer",
    "same_values",
    "text_name",
    "side_files",
    "to_hf",
]

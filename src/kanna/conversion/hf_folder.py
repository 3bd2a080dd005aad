"""A model as a folder of Hugging Face's holds it: one that came from such a folder, as it is there.

A GGUF has room for less than config.json says, so metadata is asked only where there is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kanna import families
from kanna.formats.views import Renamed
from kanna.model import Model, Tensor
from kanna.sources import Source

GENERATION = "generation_config.json"
_OF_TENSORS = ("tie_word_embeddings", "vocab_size")
"""Keys that the tensors decide: whether there is a head, and how many rows it has."""
_NOT_CARRIED = ("auto_map", "quantization_config", "quantization")
"""Code of others, and how the source was stored: what is written is stored in its own way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HFFolder:
    """A folder of Hugging Face's, without its weight files.

    Attributes:
        config: config.json.
        tensors: By Hugging Face name, in the order of the model's.
        files: Side files (tokenizer, generation config) by file name.
    """

    config: dict[str, Any]
    tensors: Mapping[str, Tensor]
    files: dict[str, bytes]


def hf_folder(
    source: Source, model: Model, *, stacked: bool = False, folded: bool = False
) -> HFFolder:
    """The model of `source` as Hugging Face holds it.

    Config, tokenizer and generation config of a Hugging Face source are its own; the spelling of
    transformers 4 stands beside its own, since runtimes read that. The text part of a larger model,
    and one that goes by another class here, is written under the names of its family, with a
    config of that.

    Args:
        source: Where the model came from.
        model: The source as tensors with roles.
        stacked: As for `families.to_hf`.
        folded: Multipliers of the config are 1, and in the weights, as a GGUF has them.

    Raises:
        UnsupportedError: The model has no Hugging Face form.
    """
    made, tensors, files = families.to_hf(model, stacked=stacked)
    if source.kind != "hf":
        return HFFolder(config=made, tensors=tensors, files=files)
    if GENERATION not in model.side_files:
        files.pop(GENERATION, None)
    other = families.family_of(source.config)[1].names != families.family_of_model(model)[1].names
    if folded or other or isinstance(source.config.get("text_config"), Mapping):
        return HFFolder(config=made, tensors=tensors, files=files)
    own = {
        k: v
        for k, v in source.config.items()
        if k not in _NOT_CARRIED and (v is not None or k not in made)
    }
    config = made | own | {key: made[key] for key in _OF_TENSORS if key in made}
    if not str((config["architectures"] or [""])[0]).endswith(("ForCausalLM", "LMHeadModel")):
        config["architectures"] = made["architectures"]
    return HFFolder(
        config=config,
        tensors={
            n: Renamed(n, source.tensors[n]) if n in source.tensors and _alike(t, stacked) else t
            for n, t in tensors.items()
        },
        files=files,
    )


def _alike(tensor: Tensor, stacked: bool) -> bool:
    """Whether a tensor of this name is the same in the source; stacks may have other axes."""
    return not stacked or len(tensor.shape) < 3


def with_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """`config` with torch's name of the type of its weights, under the key it has for that."""
    key = "dtype" if "dtype" in config else "torch_dtype"
    return {**config, key: dtype}

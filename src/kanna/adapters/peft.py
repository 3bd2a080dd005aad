"""Adapters as PEFT saves them, and Unsloth, Axolotl, LLaMA-Factory and TRL through it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from kanna.adapters.base import AdapterLayout, LoraAdapter, LowRank, NewRows, Transposed
from kanna.adapters.peft_config import PeftConfig
from kanna.errors import FormatError, UnsupportedError
from kanna.formats import safetensors
from kanna.formats.text_files import read_object
from kanna.model import Tensor
from kanna.sources import adapter as names

_PREFIX = "base_model.model."
_WRAPPED = re.compile(
    r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|base_layer|module"
    r"|modules_to_save(?:\.default)?|original_module)\.(?=.)"
)
"""What torch.compile, FSDP, gradient checkpointing and PEFT itself put between the names."""
_CHANGE = re.compile(
    r"(?P<module>.+?)\.(?:token_adapter\.)?(?P<kind>lora_A|lora_B|lora_embedding_A|lora_embedding_B"
    r"|lora_magnitude_vector|trainable_tokens_delta)(?:\.(?!weight$|bias$)\w+)?"
    r"(?:\.(?P<part>weight|bias))?"
)
_PEFT_MERGE = (
    "merge it with PEFT (AutoPeftModelForCausalLM.from_pretrained(FOLDER).merge_and_unload()), "
    "save the result and give that folder"
)


def read(given: str, path: Path, files: Mapping[str, Path]) -> LoraAdapter:
    """An adapter that PEFT saved.

    Args:
        given: What the user named.
        path: Its folder.
        files: The files in it.

    Raises:
        UnsupportedError: A part of it cannot be taken exactly; names the way out.
        FormatError: Config and tensors contradict each other.
    """
    config = PeftConfig(read_object(files[names.CONFIG], todo="save the adapter again"), given)
    adapter = LoraAdapter(
        given=given,
        path=path,
        layout=LAYOUT.title,
        base=config.base,
        revision=config.revision,
        architecture=config.architecture,
        ties=config.ties,
        alpha=config.alpha,
        weight_files=[files[LAYOUT.weights], files[names.CONFIG]],
        files={n: p for n, p in files.items() if n != LAYOUT.weights},
    )
    changes: dict[str, dict[str, Tensor]] = {}
    for name, tensor in _plain(safetensors.read_file(files[LAYOUT.weights]), given):
        match = _CHANGE.fullmatch(name)
        if match is None:
            adapter.replaced[name] = tensor
        else:
            kind = f"{match['kind']}.bias" if match["part"] == "bias" else match["kind"]
            changes.setdefault(match["module"], {})[kind] = tensor
    if stray := next((n for n in adapter.replaced if "lora_" in n or "trainable_" in n), None):
        raise UnsupportedError(
            f"{given} has the tensor {stray}",
            expected="LoRA, rsLoRA or DoRA of linear layers and embeddings",
            todo=_PEFT_MERGE,
        )
    for module, parts in changes.items():
        _take(adapter, module, parts, config)
    if not adapter.modules:
        raise FormatError(f"{given} holds no change of any layer", todo="save the adapter again")
    return adapter


def _plain(tensors: Mapping[str, Tensor], given: str) -> Iterator[tuple[str, Tensor]]:
    """Tensors by their names in the base model."""
    seen: set[str] = set()
    for name, tensor in tensors.items():
        while name.startswith(_PREFIX):
            name = name.removeprefix(_PREFIX)
        name = _WRAPPED.sub("", name)
        if name in seen:
            raise FormatError(
                f"{given} has {name} twice under different prefixes", todo="save the adapter again"
            )
        seen.add(name)
        yield name, tensor


def _take(adapter: LoraAdapter, module: str, parts: dict[str, Tensor], config: PeftConfig) -> None:
    """Put the tensors of one module in their place."""
    if (delta := parts.pop("trainable_tokens_delta", None)) is not None:
        adapter.rows[module] = NewRows(places=config.token_rows(module, delta.shape), values=delta)
    if not parts:
        return
    bias, magnitude = parts.pop("lora_B.bias", None), parts.pop("lora_magnitude_vector", None)
    embedding = "lora_embedding_A" in parts or "lora_embedding_B" in parts
    kind = "lora_embedding" if embedding else "lora"
    first, second = parts.pop(f"{kind}_A", None), parts.pop(f"{kind}_B", None)
    if first is None or second is None or parts:
        raise FormatError(
            f"{adapter.given} has not both halves of {module}: "
            f"{'A' if first is None else 'B'} is missing",
            expected="lora_A and lora_B of every module",
            todo="save the adapter again, after gathering the shards of every device",
        )
    for one in (first, second):
        if len(one.shape) != 2 or 0 in one.shape:
            raise FormatError(
                f"{adapter.given} has {one.name} of shape {list(one.shape)}",
                expected="a matrix: shards of several devices must be gathered before saving",
                todo="save the adapter again",
            )
    rank = config.rank(module)
    if (first.shape[0], second.shape[1]) != (rank, rank):
        raise FormatError(
            f"{adapter.given}: {module} has the ranks {first.shape[0]} and {second.shape[1]}, "
            f"adapter_config.json says {rank}",
            expected="the config of these very weights",
            todo="save the adapter again",
        )
    scale = config.scale(module)
    if magnitude is not None and embedding:
        raise UnsupportedError(
            f"{adapter.given} has DoRA on the embedding {module}",
            expected="DoRA on linear layers",
            todo=_PEFT_MERGE,
        )
    adapter.low_rank[module] = LowRank(
        left=Transposed(first) if embedding else second,
        right=Transposed(second) if embedding else first,
        scale=scale,
        magnitude=magnitude,
        embedding=embedding,
    )
    if bias is not None:
        adapter.bias[module] = (bias, scale)


def _recognizes(files: Mapping[str, Path]) -> bool:
    return names.CONFIG in files and any(name in files for name in names.WEIGHTS)


LAYOUT = AdapterLayout(
    title="PEFT",
    summary="Adapters as PEFT saves them: TRL, Unsloth, Axolotl and LLaMA-Factory do so through it",
    weights=names.WEIGHTS[0],
    recognizes=_recognizes,
    read=read,
)

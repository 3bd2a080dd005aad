"""Adapters merged into a GGUF: its tensors have other names and orders than an adapter's.

What is plain LoRA is brought into the orders of the file, factor by factor; everything else is for
the folder that the file was made from.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath

from kanna import encodings, families
from kanna.adapters.base import LoraAdapter, LowRank
from kanna.adapters.base_model import check_base
from kanna.adapters.low_rank import RecentFactors
from kanna.adapters.merged_folder import Merged, quantized_notes
from kanna.adapters.placing import EMBEDDING, HEAD, Change, place
from kanna.errors import UnsupportedError
from kanna.formats.base import FLOATS
from kanna.model import Model, num_weights
from kanna.sources import Source
from kanna.tokenizer import templates
from kanna.tokenizer.files import configured

_NAMES = (
    "general.base_model.0.repo_url",
    "general.source.huggingface.repository",
    "general.source.repo_url",
)
"""Where a GGUF names the model that it was made from."""


def merged_gguf(source: Source, adapters: list[tuple[LoraAdapter, float]]) -> Source:
    """The source with adapters merged in: its tensors are computed when they are read.

    Args:
        source: The base, a GGUF.
        adapters: Adapters with their weights; 1 is as trained.

    Raises:
        UnsupportedError: An adapter has more than plain LoRA of matrices.
        SourceError: It does not fit the base.
    """
    notes = [*check_base(source, adapters), *quantized_notes(quantized_tensors(source))]
    notes += _own_templates(source, adapters)
    model = families.load_decoder(source)
    names = {families.text_name(hf): gguf for gguf, hf in families.hf_names(model).items()}
    by_hf = {hf: model.tensors[gguf] for hf, gguf in names.items()}
    _refuse_more(source, adapters, tied=f"{HEAD}.weight" not in by_hf)
    changes = place(replace(source, tensors=by_hf), adapters)
    tensors, recent = dict(source.tensors), RecentFactors()
    for hf, change in changes.items():
        name = names[hf]
        ordered = [(_ordered(model, name, c), weight) for c, weight in change.low_rank]
        tensors[name] = Merged(name, tensors[name], Change(low_rank=ordered), recent)
    return replace(
        source,
        tensors=tensors,
        weight_files=[*source.weight_files, *(p for a, _ in adapters for p in a.weight_files)],
        notes=[*source.notes, *notes, *(n for a, _ in adapters for n in a.notes)],
        merged=tuple(f"{a.given}" + (f"={w:g}" if w != 1 else "") for a, w in adapters),
    )


def quantized_tensors(source: Source) -> dict[str, int]:
    """Weights of a source by the quantized type that holds them; {} where all are floats."""
    kinds: dict[str, int] = {}
    for tensor in source.tensors.values():
        inner = tensor.inner if isinstance(tensor, Merged) else tensor
        if inner.dtype not in FLOATS and inner.dtype in encodings.names():
            kinds[inner.dtype] = kinds.get(inner.dtype, 0) + num_weights(tensor)
    return kinds


def published_base(source: Source, adapters: list[tuple[LoraAdapter, float]]) -> str:
    """What the model in 16 bits is called, as the file or an adapter names it; "" if none does."""
    named = [str(source.gguf.value(key) or "") for key in _NAMES] if source.gguf else []
    repositories = [n.removeprefix("https://huggingface.co/") for n in named if n]
    own = [a.base for a, _ in adapters if a.base and PurePosixPath(a.base).suffix != ".gguf"]
    return next(iter([*own, *repositories]), "")


def _own_templates(source: Source, adapters: list[tuple[LoraAdapter, float]]) -> list[str]:
    """Notes on chat templates beside adapters: a GGUF keeps its own."""
    own = source.gguf.value("tokenizer.chat_template") if source.gguf else None
    notes: list[str] = []
    for adapter, _ in adapters:
        given = templates.read(adapter.files, configured(adapter.files)).get(templates.DEFAULT)
        if given and given != own:
            notes.append(
                f"the chat template is that of {source.given}, from which that of {adapter.given} "
                "differs"
            )
    return notes


def _ordered(model: Model, name: str, change: LowRank) -> LowRank:
    """A change in the orders that a GGUF has its rows and columns in."""
    left, right = families.gguf_factors(model, name, *change.tensors(name))
    return replace(change, left=left, right=right)


def _refuse_more(source: Source, adapters: list[tuple[LoraAdapter, float]], *, tied: bool) -> None:
    """UnsupportedError for what is no sum of two factors and a matrix of the file."""
    for adapter, _ in adapters:
        longs = [m for m, change in adapter.low_rank.items() if change.magnitude is not None]
        shared = [
            m for m in adapter.low_rank if tied and families.text_name(m) in (EMBEDDING, HEAD)
        ]
        more = [*longs, *shared, *adapter.bias, *adapter.rows, *adapter.replaced]
        if more:
            base = published_base(source, adapters) or "the folder that it was made from"
            raise UnsupportedError(
                f"{source.given} is a GGUF, and {adapter.given} has more than plain LoRA of "
                f"{more[0]}",
                expected=f"the model in 16 bits: {base}",
                todo="give that one; or give base/, the values of this file in 16 bits: "
                f"kanna convert {source.given} --format safetensors -o base/",
            )

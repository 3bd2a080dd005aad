"""Which presets fit: exact file sizes from headers, memory at a context length, estimated speed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kanna import families, plan, provenance
from kanna.errors import UsageError
from kanna.formats.gguf.layout import alignment_of, pack_metadata, total_bytes
from kanna.hardware import estimate_tps, memory
from kanna.model import Model, num_weights
from kanna.plan import Resolved, presets
from kanna.progress import Progress
from kanna.sources import Source, open_source
from kanna.units import format_size, precision_class

# llama.cpp computes prompts in batches of 512 tokens, rounds caches up to 256 and keeps them in float16.
BATCH, CACHE_STEP, CACHE_BYTES = 512, 256, 2
# Every how many layers one sees the whole context, where the others have a sliding window.
WINDOW_PATTERN = {"gemma2": 2, "gemma3": 6}
# Presets that only suit networks trained for them.
SPECIAL = {"MXFP4_MOE", "Q2_0", "TQ2_0", "TQ1_0", "Q1_0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRow:
    """One preset. Sizes in bytes; memory = weights + cache + buffers; tokens_per_second is an estimate."""

    preset: str
    use_case: str
    file_bytes: int
    bits_per_weight: float
    nominal_bits: float
    precision_class: str
    weight_bytes: int
    kv_bytes: int
    buffer_bytes: int
    memory_bytes: int
    tokens_per_second: float
    substitutions: int
    fits: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """rows: largest first; recommended: the most precise quantized preset that fits, or None.

    advice: the recommendation as a sentence, with its reason
    """

    name: str
    memory: int
    context: int
    rows: list[FitRow]
    recommended: str | None
    advice: str
    notes: list[str] = field(default_factory=list[str])

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def fit(
    source: str | Path | Source,
    *,
    memory: int | None = None,
    context: int = 4096,
    revision: str | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> FitResult:
    """Every preset of `source` within `memory` bytes (default: what is free here) at `context` tokens.

    Reads headers only; of a hub id no weight is fetched. File sizes are those `convert` writes, to the byte.
    """
    if context < 1:
        raise UsageError(f"a context of {context} tokens", expected="1 or more")
    opened = open_source(source, revision=revision, offline=offline, weights=False, progress=progress)
    model = families.load_model(opened)
    limit = memory if memory is not None else _free()
    cache, buffers = cache_bytes(model, context), buffer_bytes(model, context)
    sizes = _Sizes(model, opened)
    rows: list[FitRow] = []
    for name in presets.names():
        if name == "MXFP4_MOE" and not model.meta("{arch}.expert_count", 0):
            continue  # the same as Q8_0 for a model without experts
        resolved = plan.resolve(model, preset=name)
        weights = sum(e.nbytes for e in resolved.entries)
        needed = weights + cache + buffers
        rows.append(
            FitRow(
                preset=name,
                use_case=presets.get(name).use_case,
                file_bytes=sizes.of(name, resolved),
                bits_per_weight=resolved.bits,
                nominal_bits=resolved.nominal_bits,
                precision_class=precision_class(resolved.bits),
                weight_bytes=weights,
                kv_bytes=cache,
                buffer_bytes=buffers,
                memory_bytes=needed,
                tokens_per_second=_speed(model, resolved),
                substitutions=len(resolved.substitutions),
                fits=needed <= limit,
            )
        )
    rows.sort(key=lambda r: -r.file_bytes)
    notes = model.notes + _notes(model, opened, context, cache + buffers, limit)
    recommended, advice = _recommend(rows, model, opened, limit - cache - buffers)
    return FitResult(
        name=model.name,
        memory=limit,
        context=context,
        rows=rows,
        recommended=recommended,
        advice=advice,
        notes=notes,
    )


def _free() -> int:
    return memory().available


class _Sizes:
    """Exact file sizes; each of the model's own values, vocabularies among them, is packed once."""

    def __init__(self, model: Model, source: Source) -> None:
        self.model, self.source = model, source
        self.alignment = alignment_of(model.metadata)
        self.kept: dict[str, int] = {}

    def of(self, preset: str, resolved: Resolved) -> int:
        command = provenance.command(self.source, {"preset": preset})
        ours = provenance.keys(self.model, self.source, resolved, hashes=None, command=command)
        size = len(pack_metadata(ours))
        for key, value in provenance.carried(self.model, ours).items():
            if key not in self.kept:
                self.kept[key] = len(pack_metadata({key: value}))
            size += self.kept[key]
        return total_bytes(size, resolved.entries, self.alignment)


def cache_bytes(model: Model, context: int) -> int:
    """Bytes of llama.cpp's key-value cache at `context` tokens: shared heads and sliding windows counted."""
    layers = int(model.meta("{arch}.block_count", 0))
    heads = _per_layer(model.meta("{arch}.attention.head_count", 0), layers)
    kv_heads = _per_layer(model.meta("{arch}.attention.head_count_kv", heads), layers)
    hidden = int(model.meta("{arch}.embedding_length", 0))
    default = hidden // heads[0] if layers and heads[0] else 0
    head = int(model.meta("{arch}.attention.key_length", default))
    values = int(model.meta("{arch}.attention.value_length", default))
    pattern = WINDOW_PATTERN.get(model.family, 1)
    window = int(model.meta("{arch}.attention.sliding_window", 0) or 0)
    full = _up(context, CACHE_STEP)
    short = min(full, _up(window + BATCH, CACHE_STEP)) if window and pattern > 1 else full
    total = 0
    for layer in range(layers):
        tokens = full if (layer + 1) % pattern == 0 else short
        total += tokens * kv_heads[layer] * (head + values) * CACHE_BYTES
    return total


def buffer_bytes(model: Model, context: int) -> int:
    """Bytes of llama.cpp's working buffers: logits and activations of one batch, and the attention mask."""
    vocabulary = _vocabulary(model)
    hidden = int(model.meta("{arch}.embedding_length", 0))
    feed = max(_per_layer(model.meta("{arch}.feed_forward_length", 0), 1))
    batch = min(BATCH, context)
    return 4 * batch * (vocabulary + 3 * hidden + 2 * feed) + 2 * batch * _up(context, CACHE_STEP)


def _vocabulary(model: Model) -> int:
    embedding = model.tensors.get("token_embd.weight")
    return embedding.shape[0] if embedding is not None else int(model.meta("{arch}.vocab_size", 0))


def _per_layer(value: Any, layers: int) -> list[int]:
    """A number per layer; most models have one for all of them."""
    if isinstance(value, (int, float)):
        return [int(value)] * max(1, layers)
    found = [int(v) for v in value]
    return found + [found[-1] if found else 0] * (layers - len(found))


def _up(size: int, step: int) -> int:
    return -(-size // step) * step


def _speed(model: Model, resolved: Resolved) -> float:
    """Estimated tokens per second at a short context: each token reads every weight but the rows of the embedding."""
    tied = "output.weight" not in model.tensors
    read = [e for e in resolved.entries if tied or not e.name.startswith("token_embd")]
    experts, used = int(model.meta("{arch}.expert_count", 0)), int(model.meta("{arch}.expert_used_count", 0))
    bytes_read = weights = 0.0
    for entry in read:
        share = used / experts if experts and len(entry.tensor.shape) == 3 else 1
        bytes_read += entry.nbytes * share
        weights += num_weights(entry.tensor) * share
    return estimate_tps(bytes_read, weights)


def _recommend(rows: list[FitRow], model: Model, source: Source, room: int) -> tuple[str | None, str]:
    """The most precise quantized preset that fits; a quantized source that fits is best left as it is."""
    fitting = [r for r in rows if r.fits and r.bits_per_weight <= 9 and r.preset not in SPECIAL]
    if source.gguf is not None and provenance.quantized_source(model):
        if source.gguf.num_bytes <= room:
            return None, "keep the source as it is: it is quantized already, it fits, and no preset of it can be better"
        fitting = [r for r in fitting if r.file_bytes < source.gguf.num_bytes]
    if not fitting:
        return None, "nothing fits: raise --memory, lower --context, or take a smaller model"
    best = max(fitting, key=lambda r: (r.bits_per_weight, -r.file_bytes))
    return best.preset, f"{best.preset}: the most precise quantized preset that fits"


def _notes(model: Model, source: Source, context: int, overhead: int, limit: int) -> list[str]:
    notes: list[str] = []
    trained = int(model.meta("{arch}.context_length", 0) or 0)
    if trained and context > trained:
        notes.append(f"the model was trained for {trained} tokens of context, {context} are asked for")
    if overhead > limit:
        notes.append(f"the cache and buffers alone take {format_size(overhead)}: lower --context")
    if any(".ssm_" in name for name in model.tensors):
        notes.append("this model has recurrent layers, whose state is not counted here")
    return notes

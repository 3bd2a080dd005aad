"""Which presets of GGUF fit, their files to the byte."""

from __future__ import annotations

from kanna import plan, provenance
from kanna._util.units import precision_class
from kanna.formats.gguf.layout import alignment_of, pack_metadata, total_bytes
from kanna.hardware import estimate_tps
from kanna.model import Model, num_weights
from kanna.plan import Resolved, gguf
from kanna.sizing.memory import buffer_bytes, cache_bytes
from kanna.sizing.rows import FitRow
from kanna.sources import Source


def rows(source: Source, model: Model, format: str, limit: int, context: int) -> list[FitRow]:
    """A row per preset; format: `gguf`."""
    cache, buffers = cache_bytes(model, context), buffer_bytes(model, context)
    sizes = _Sizes(model, source)
    found: list[FitRow] = []
    for name in gguf.names():
        if name == "MXFP4_MOE" and not model.meta("{arch}.expert_count", 0):
            continue  # the same as Q8_0 for a model without experts
        resolved = plan.resolve(model, preset=name)
        weights = sum(e.nbytes for e in resolved.entries)
        needed = weights + cache + buffers
        found.append(
            FitRow(
                preset=name,
                use_case=gguf.get(name).use_case,
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
    return found


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


def _speed(model: Model, resolved: Resolved) -> float:
    """Estimated tokens per second at a short context.

    Each token reads every weight but the rows of the embedding.
    """
    tied = "output.weight" not in model.tensors
    read = [e for e in resolved.entries if tied or not e.name.startswith("token_embd")]
    experts, used = (
        int(model.meta("{arch}.expert_count", 0)),
        int(model.meta("{arch}.expert_used_count", 0)),
    )
    bytes_read = weights = 0.0
    for entry in read:
        share = used / experts if experts and len(entry.tensor.shape) == 3 else 1
        bytes_read += entry.nbytes * share
        weights += num_weights(entry.tensor) * share
    return estimate_tps(bytes_read, weights)

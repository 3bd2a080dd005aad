"""Logits of an artefact against the source in float32, on a short and on a long prompt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kanna import formats
from kanna.checks import Check
from kanna.errors import SourceError
from kanna.evaluation.divergence import compare
from kanna.evaluation.text import TEXT
from kanna.formats import safetensors
from kanna.formats.base import StoredWeights
from kanna.formats.overflow import LARGEST_HALF
from kanna.model import Model, bits_per_weight, num_weights
from kanna.runtimes.base import Engine
from kanna.runtimes.torch_engine import TorchEngine
from kanna.sources import open_source

# Mean KL in nats that an artefact may cost, by bits per weight. Far above what a right file of a
# small model costs (the floor of activations quantized to 8 bits is 0.004; Q4_0 0.5, Q2_K 1.5 on
# 135M parameters), far below what a wrong one does (a swapped norm, a lost permutation or a wrong
# rope: 2 to 12).
_KL = ((15.0, 0.005), (7.5, 0.05), (5.5, 0.2), (4.25, 0.8), (3.0, 1.5), (2.0, 3.0), (0.0, 6.0))
# From 8 bits on, positions that the reference decides clearly must be decided alike.
_MARGIN = 0.5
_AGREE = ((15.0, 0.99), (7.5, 0.97))
_ALIKE = 0.005  # bits per weight that read as the same
# Int8 arithmetic: one range of 256 steps for the activations of all tokens costs more than the
# weights do (0.1 to 0.7 on 135M parameters, see docs/onnx.md).
_ROUNDED = 1.5
_SHORT, _TAIL = 96, 96
_LONGEST = 6144
_FEW, _SAME = 12, 1e-3
_IN_LAYER = re.compile(r"^blk\.\d|(^|\.)layers\.\d")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A prompt.

    Attributes:
        name: `short` or `long`.
        ids: Token ids.
        first: Logits are compared from this position on.
    """

    name: str
    ids: list[int]
    first: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """How precisely an artefact computes, which bounds what it may differ.

    Attributes:
        bits: Bits per weight of its matrices, or of its layers' if fewer.
        whole: Bits per weight, as every verb reports them; None where that is not known.
        activations: Bits of the codes that activations have; None: they are floats.
        inputs: Which products round the floats that they read, in words; "": none.
    """

    bits: float
    whole: float | None = None
    activations: int | None = None
    inputs: str = ""


def whole_bits(path: Path, model: Model) -> float | None:
    """Bits per weight, as every verb reports them; None where nothing of a folder is read back."""
    try:
        nbytes = sum(tensor.nbytes for tensor in open_source(path).tensors.values())
    except SourceError:
        return None
    return bits_per_weight(nbytes, sum(map(num_weights, model.tensors.values())))


def decisive_bits(path: Path, model: Model) -> float:
    """Bits of the artefact's weights per weight of its matrices, or of its layers' if fewer.

    An embedding in many bits, more than half of a small model, would hide the cost of layers in few
    bits.
    """
    stored = stored_weights(path)
    whole = bits_per_weight(stored.nbytes, sum(map(num_weights, model.tensors.values())))
    weights = sum(
        num_weights(t)
        for name, t in model.tensors.items()
        if name.startswith("blk.") and len(t.shape) > 1
    )
    layer_bytes = sum(size for name, size in stored.sizes.items() if _IN_LAYER.search(name))
    return min(whole, 8 * layer_bytes / weights) if layer_bytes and weights else whole


def in_words(bits: float, whole: float | None) -> str:
    """`5.73 bits per weight, 4.72 in its layers`: the reported figure, then what decides."""
    if whole is None:
        return f"{bits:.2f} bits per weight of its layers"
    words = f"{whole:.2f} bits per weight"
    return words + (f", {bits:.2f} in its layers" if whole - bits > _ALIKE else "")


def precision_words(precision: Precision) -> str:
    """`8.13 bits per weight and activations of 16`: what a divergence is bounded by."""
    words = in_words(precision.bits, precision.whole)
    if precision.activations is not None:
        words += f" and activations of {precision.activations}"
    return words + (f", {precision.inputs}" if precision.inputs else "")


def stored_weights(path: Path) -> StoredWeights:
    """What the weights of an artefact take, or of a Hugging Face folder."""
    format = formats.recognize(path)
    if format is not None and format.weights is not None:
        return format.weights(path)
    if format is not None and format.contents is not None:
        return StoredWeights.of_tensors(format.contents(path).tensors)
    return StoredWeights.of_tensors(safetensors.read_folder(path))


def prompts(engine: Engine, model: Model) -> list[Prompt]:
    """A short prompt, and a long one that goes beyond the sliding window if the model has one."""
    window = model.whole("{arch}.attention.sliding_window", 0)
    trained = model.whole("{arch}.context_length", 0) or 2048
    trained = min(trained, engine.trained_context or trained)
    target = max(1024, window + window // 4 + _TAIL) if window < trained else 1024
    length = min(trained, max(_SHORT, min(target, _LONGEST)))
    once = engine.tokenize(TEXT, add_bos=True)
    # Repetition would let the model copy: the sentences are taken in a new order each time.
    parts = [p + ". " for p in TEXT.split(". ")]
    ids, turn = list(once), 0
    while len(ids) < length:
        turn += 1
        shift = 1 + turn % (len(parts) - 1)
        ids += engine.tokenize(f"\n{turn}. " + "".join(parts[shift::2] + parts[:shift:3]))
    short = once[: min(_SHORT, trained)]
    return [
        Prompt(name="short", ids=short, first=0),
        Prompt(name="long", ids=ids[:length], first=max(0, length - _TAIL)),
    ]


def check(
    reference: Engine,
    engine: Engine,
    prompts: Sequence[Prompt],
    precision: Precision,
    *,
    threads: int,
) -> list[Check]:
    """One check per prompt: mean KL under the bound of these bits, and clear decisions alike.

    Args:
        reference: The source in float32.
        engine: The artefact.
        prompts: What both read.
        precision: Bits of the artefact.
        threads: Threads that compare.
    """
    bits = precision.bits
    limit = next(kl for least, kl in _KL if bits >= least)
    agree = next((share for least, share in _AGREE if bits >= least), None)
    if precision.activations is not None:
        limit, agree = max(limit, _ROUNDED), None
    checks: list[Check] = []
    for prompt in prompts:
        base = reference.logits(prompt.ids, first=prompt.first, copy=False)
        logits = engine.logits(prompt.ids, first=prompt.first, copy=False)
        name = f"logits, {prompt.name} prompt"
        if logits.shape != base.shape:
            checks.append(
                Check(
                    name=name, ok=False, detail=f"vocabulary {logits.shape[1]}, not {base.shape[1]}"
                )
            )
            continue
        if not np.isfinite(logits).all():
            checks.append(Check(name=name, ok=False, detail="not finite"))
            continue
        _, [scores] = compare(base, [logits], np.zeros(len(base), np.int64), threads=threads)
        kl = float(scores.kl.mean())
        top2 = np.partition(base, -2, axis=1)[:, -2:]
        clear = (top2[:, 1] - top2[:, 0]) > _MARGIN
        share = float(scores.top1[clear].mean()) if clear.any() else 1.0
        ok = kl <= limit and (agree is None or share >= agree)
        detail = f"{len(prompt.ids)} tokens: KL {kl:.2g} of at most {limit:g} at "
        detail += precision_words(precision)
        detail += f"; next token {scores.top1.mean():.1%} alike, {share:.1%} where it is clear"
        checks.append(
            Check(name=name, ok=ok, detail=detail + (f" (at least {agree:.0%})" if agree else ""))
        )
    return checks


def half_activations(reference: TorchEngine, prompt: Prompt) -> Check:
    """What the model computes with fits float16, in which the artefact's runtime computes.

    Args:
        reference: The source in float32.
        prompt: What it reads.
    """
    largest = reference.largest_activations(prompt.ids)
    name, value = max(largest.items(), key=lambda item: item[1], default=("", 0.0))
    ok = value <= LARGEST_HALF
    detail = f"the largest is {value:.3g} of at most {LARGEST_HALF:g}, from {name}"
    if not ok:
        first = next(n for n, v in largest.items() if v > LARGEST_HALF)
        detail += (
            f"; {first} is the first to go beyond it and would be infinite: convert to bf16, or to "
            "codes with scales in bf16"
        )
    return Check(name="activations in float16", ok=ok, detail=detail)


def same(decoded: Engine, own: Engine, prompt: Prompt, name: str) -> Check:
    """On a few tokens, the artefact's runtime gives the logits that its decoded values give.

    Args:
        decoded: The artefact's values in float32, in another runtime.
        own: The artefact in its own runtime.
        prompt: The first tokens of it are read.
        name: Of the runtime.
    """
    ids = prompt.ids[:_FEW]
    base, logits = decoded.logits(ids), own.logits(ids)
    if logits.shape != base.shape or not np.isfinite(logits).all():
        return Check(
            name=f"logits in {name}",
            ok=False,
            detail=f"shape {logits.shape}, not {base.shape}, or not finite",
        )
    _, [scores] = compare(base, [logits], np.zeros(len(base), np.int64), threads=1)
    kl = float(scores.kl.mean())
    detail = (
        f"{len(ids)} tokens in {name} beside the values of its file: "
        f"KL {kl:.2g} of at most {_SAME:g}"
    )
    return Check(name=f"logits in {name}", ok=kl <= _SAME, detail=detail)

"""Which file to use: one rule for `fit`, `convert`, `compare` and `optimize`.

None of them recommends what another advises against: what speaks against a file is decided here, by
`objection`, and `convert` says the same sentence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kanna import formats, provenance
from kanna._util.units import format_size
from kanna.closeness import GRADES, describe, grade
from kanna.sources import Source

QUANTIZED_BITS = 10.0
"""Bits per weight up to which a file is a quantized one; norms add to 8.5 in a small model."""
KNEE = 0.0025
"""Nats of KL divergence that one per cent of file size is worth.

Where the curve of a family of presets bends.
"""

FAIR = next(g for g in GRADES if g.name == "fair")
"""The least grade that is recommended where there is a better one."""

Range = tuple[float, float]
"""Lowest and highest value that was measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A file or folder that could be recommended; None where nothing was measured.

    Attributes:
        name: Its preset.
        special: Whether it is made for special models, and never recommended for another.
        exact: Whether it keeps the blocks of a quantized source.
        fits: Whether it fits in the memory there is.
        kl_mean: Nats, measured, or what its bits let expect.
        expected: Whether that is an expectation, and nothing was measured.
        speed: Tokens per second, slowest and fastest round; rounds that are one decide nothing.
    """

    name: str
    file_bytes: int
    format: str = formats.DEFAULT
    bits_per_weight: float | None = None
    special: bool = False
    exact: bool = False
    fits: bool = True
    gate: str | None = None
    kl_mean: float | None = None
    expected: bool = False
    top1: float | None = None
    gen_tps: float | None = None
    speed: Range | None = None
    peak_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFacts:
    """What a recommendation must know of a source.

    Attributes:
        file_bytes: Of its files, tokenizer and config among them.
        quantized: Whether it holds quantized weights.
        runs: Whether a runtime of the formats in question loads it as it is.
        fits: Whether it fits in the memory there is.
    """

    file_bytes: int
    quantized: bool = False
    runs: bool = False
    fits: bool = True

    @property
    def stays(self) -> bool:
        """Whether nothing made of it can be better: quantizing twice only loses."""
        return self.quantized and self.runs and self.fits


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """The verdict.

    Attributes:
        name: The candidate to use; None: none of them.
        keep_source: Whether the source itself is the one to use.
        why: The reason, as sentences.
        rule: How it was picked, as a sentence.
    """

    name: str | None
    why: str
    rule: str
    keep_source: bool = False


Rule = Callable[[Sequence[Candidate]], tuple[Candidate, str, str]]
"""Picks one of at least one candidate: which, why, and the rule in words."""

KEEP = (
    "keep the source as it is: it is quantized already and runs as it is, and whatever is made of "
    "it is further from the original"
)


def source_facts(
    source: Source,
    among: Sequence[str],
    *,
    room: int | None = None,
) -> SourceFacts:
    """What there is to know of a source, from its headers.

    Args:
        source: What the candidates are made of.
        among: Names of the formats in question.
        room: Bytes of memory for weights; None: enough.
    """
    size = _size(source)
    return SourceFacts(
        file_bytes=size,
        quantized=bool(provenance.quantized_source(source)),
        runs=any(formats.get(name).opens(source.path) for name in among),
        fits=room is None or size <= room,
    )


def side_bytes(source: Source) -> int:
    """Bytes of a source that are no weights; a folder made of it has about as many."""
    return max(0, _size(source) - sum(t.nbytes for t in source.tensors.values()))


def _size(source: Source) -> int:
    if source.gguf is not None:
        return source.gguf.num_bytes
    files = [p for p in source.decisive_files if p.is_file()]
    if all(p.is_file() for p in source.weight_files) and source.weight_files:
        return sum(p.stat().st_size for p in files)
    # The weights of a hub model that were not fetched: their headers say how many bytes there are.
    weights = sum(t.nbytes for t in source.tensors.values())
    return weights + sum(p.stat().st_size for p in files if p not in source.weight_files)


def objection(candidate: Candidate, source: SourceFacts | None) -> str | None:
    """What speaks against using a file, or None; the sentence that `convert` says too.

    Args:
        candidate: The file.
        source: What it is made of; None where that is not known.
    """
    if source is None:
        return None
    made, given = format_size(candidate.file_bytes), format_size(source.file_bytes)
    if candidate.file_bytes >= source.file_bytes and (source.quantized or _quantized(candidate)):
        better = " and cannot be better: use the source itself, or a smaller preset"
        return f"the output ({made}) is no smaller than the source ({given})" + (
            better if source.quantized else ": a smaller preset saves something"
        )
    if candidate.file_bytes > 1.05 * source.file_bytes:
        return (
            f"the output ({made}) is larger than the source ({given}), and holds nothing that the "
            "source does not"
        )
    if source.stays:
        return (
            f"the source is quantized already and runs as it is ({given}): the output ({made}) is "
            "smaller, and further from the original"
        )
    return None


def _quantized(candidate: Candidate) -> bool:
    return candidate.bits_per_weight is None or candidate.bits_per_weight <= QUANTIZED_BITS


def recommend(
    candidates: Sequence[Candidate], source: SourceFacts | None, rule: Rule
) -> Recommendation:
    """The candidate to use, or the source itself.

    Whatever failed its checks, does not fit, is no smaller than the source or is not quantized is
    never recommended.

    Args:
        candidates: What there is to choose from.
        source: What they are made of; None where that is not known.
        rule: Picks among those that nothing speaks against: `knee`, or `closest` within a budget.
    """
    if source is not None and source.stays:
        return Recommendation(name=None, keep_source=True, why=KEEP, rule=_STAYS)
    sound = [c for c in candidates if c.gate != "failed" and not c.special and _quantized(c)]
    fitting = [c for c in sound if c.fits]
    able = [c for c in fitting if objection(c, source) is None]
    if able:
        same = [c for c in able if c.exact]
        pick, why, words = (_exact if same else rule)(same or able)
        return Recommendation(name=pick.name, why=why, rule=words)
    if fitting and source is not None:
        runs = source.runs and source.fits
        least = min(fitting, key=lambda c: c.file_bytes)
        reason = (
            f"no file here is smaller than the source ({format_size(source.file_bytes)}); "
            f"{least.name} takes {format_size(least.file_bytes)}"
        )
        why = f"keep the source as it is: {reason}" if runs else reason
        return Recommendation(name=None, keep_source=runs, why=why, rule=_STAYS)
    return Recommendation(name=None, why=_none(candidates, sound), rule=_STAYS)


_STAYS = (
    "never a file that failed its checks, does not fit, or is no smaller than its source; a "
    "quantized source that runs as it is stays as it is"
)


def _none(candidates: Sequence[Candidate], sound: Sequence[Candidate]) -> str:
    if sound:
        return "nothing fits: raise --memory, lower --context, or take a smaller model"
    if any(c.gate == "failed" for c in candidates):
        return "No file was both measured and free of failed checks."
    return "there is no quantized file to choose from"


def _exact(able: Sequence[Candidate]) -> tuple[Candidate, str, str]:
    rule = "the blocks of the source as they are, where another runtime is to read them"
    return able[0], f"{able[0].name}: {rule}", rule


def closest(able: Sequence[Candidate]) -> tuple[Candidate, str, str]:
    """The least KL divergence; of those not measured, the most precise."""
    best = min(able, key=lambda c: (c.kl_mean is None, c.kl_mean or 0.0, -c.file_bytes))
    why = [format_size(best.file_bytes)]
    if best.kl_mean is not None:
        why.append(_closeness(best))
    others = [c for c in able if c is not best and c.kl_mean is not None]
    sentence = ", ".join(why)
    if others:
        other = others[0]
        sentence += f"; {other.name}, {format_size(other.file_bytes)}, has {other.kl_mean:.4f}"
    return best, sentence + ".", "the least mean KL divergence within the budget"


RULE = (
    "among the files that did not fail their checks, the knee of the size–quality curve: the "
    f"lowest ln(file size) + {0.01 / KNEE:g} × KL. In words: bytes are saved as long as one per "
    f"cent of the file costs less than {KNEE:g} nats of KL divergence, and no further; a file that "
    "is weak or poor is none of them where another is closer."
)
RULE_ACROSS = (
    RULE + " Across formats, half a per cent of size is given for each per cent of peak memory "
    "saved and for each per cent of speed gained: ½ × ln(peak memory ÷ tokens per second) is added."
)
_NOISE = (
    " Between {} the speed is a tie: the ranges that were measured overlap so far that noise would "
    "decide. Size, closeness and memory decide there."
)


def knee(able: Sequence[Candidate]) -> tuple[Candidate, str, str]:
    """Where a smaller file begins to cost more than it saves; the candidates were measured."""
    compared, able = able, _close_enough(able)
    across = len({c.format for c in able}) > 1 and all(c.gen_tps and c.peak_bytes for c in able)
    if not across:
        pick = min(able, key=lambda c: _cost(c))
        return pick, _why(pick, compared), RULE
    pick = min(able, key=lambda c: _cost(c, c.gen_tps))
    worst = _cost(pick, _slowest(pick))
    tied = [c for c in able if c is pick or _cost(c, _fastest(c)) < worst]
    pick = min(tied, key=lambda c: _cost(c, 1.0))
    words = RULE_ACROSS
    if len(tied) > 1:
        words += _NOISE.format(", ".join(c.name for c in tied))
    return pick, _why(pick, compared), words


def _close_enough(able: Sequence[Candidate]) -> Sequence[Candidate]:
    """Those that are fair at least; where none is, those of the best grade there is."""
    grades = [g for c in able if (g := grade(c.kl_mean, c.top1)) is not None]
    if not grades:
        return able
    limit = max(GRADES.index(FAIR), min(GRADES.index(g) for g in grades))
    return [c for c in able if (g := grade(c.kl_mean, c.top1)) and GRADES.index(g) <= limit]


def _slowest(c: Candidate) -> float:
    return c.speed[0] if c.speed else c.gen_tps or 1.0


def _fastest(c: Candidate) -> float:
    return c.speed[1] if c.speed else c.gen_tps or 1.0


def _cost(c: Candidate, speed: float | None = None) -> float:
    """What the rule minimizes; `speed` in tokens per second where formats are compared."""
    cost = math.log(c.file_bytes or 1) + 0.01 / KNEE * (c.kl_mean or 0.0)
    return cost if speed is None else cost + 0.5 * math.log((c.peak_bytes or 1) / (speed or 1))


def _why(pick: Candidate, able: Sequence[Candidate]) -> str:
    why = f"{format_size(pick.file_bytes)}, {_closeness(pick)}."
    smaller = [c for c in able if c.file_bytes < pick.file_bytes]
    larger = [c for c in able if c.file_bytes > pick.file_bytes]
    if smaller:
        why += f" {_step(max(smaller, key=lambda c: c.file_bytes), pick, 'smaller')}"
    if larger:
        why += f" {_step(min(larger, key=lambda c: c.file_bytes), pick, 'larger')}"
    close = grade(pick.kl_mean, pick.top1)
    if close is not None and GRADES.index(close) > GRADES.index(FAIR):
        why += " None that was compared is close: more bits, or a larger model, would be better."
    if pick.gate == "unprovable":
        why += " Its checks could not be run here."
    return why


def _closeness(c: Candidate) -> str:
    if c.expected and (close := grade(c.kl_mean)) is not None:
        return f"{close.name} by its bits (about {c.kl_mean:.2g} nats of KL divergence expected)"
    return f"{describe(c.kl_mean, c.top1)} (mean KL divergence {c.kl_mean:.4f} nats)"


def _step(other: Candidate, pick: Candidate, word: str) -> str:
    """What the neighbour in size would give."""
    size = abs(1 - other.file_bytes / pick.file_bytes)
    figure = f"about {other.kl_mean:.2g}" if other.expected else f"{other.kl_mean:.4f}"
    return f"{other.name} is {size:.0%} {word} at {figure} nats."

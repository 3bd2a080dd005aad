"""What a push is asked for, and what it says of what it pushed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kanna._util.results import Result, ResultTable
from kanna._util.units import format_size


@dataclass(frozen=True, slots=True, kw_only=True)
class PushedModels:
    """Models that are to be pushed.

    Attributes:
        given: Files or folders, or any references to them.
        reports: A gate report of each, or none.
        unproved: Whether they may go without a report that every check passed.
        layout: Name of how they lie in a registry.
        offline: Look for them on this machine alone.
    """

    given: Sequence[str | Path]
    reports: Sequence[Path]
    unproved: bool
    layout: str
    offline: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PushedVariant:
    """One artefact in a registry.

    Attributes:
        variant: Its name among those of the tag.
        manifest: Digest of its manifest.
        num_bytes: Of its files.
        sent_bytes: Of those that the registry did not have; None of the hub, which does not say.
        memory_bytes: What it needs to run, at 4,096 tokens of context.
        gate: Verdict of the gate report beside it; None where there is none.
    """

    variant: str
    manifest: str
    num_bytes: int
    sent_bytes: int | None
    memory_bytes: int
    gate: str | None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PushResult(Result):
    """What was pushed.

    Attributes:
        reference: The name that it can be pulled by.
        digest: Of the manifest, or of the index of several.
        variants: Each artefact.
        signed: Whether it has a signature.
        notes: What the user should know.
        dry_run: Whether nothing was sent.
        files: Of the hub and of a dry run: bytes by path.
    """

    reference: str
    digest: str
    variants: Sequence[PushedVariant]
    signed: bool
    notes: Sequence[str] = field(default_factory=tuple[str, ...])
    dry_run: bool = False
    files: Mapping[str, int] = field(default_factory=dict[str, int])

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return asdict(self)

    def headline(self) -> str:
        """What was pushed, and what of it was sent."""
        total = sum(v.num_bytes for v in self.variants)
        if self.dry_run:
            return f"{self.reference}: {format_size(total)} would be pushed; nothing was sent"
        if any(v.sent_bytes is None for v in self.variants):
            return f"{self.reference}: {format_size(total)}"
        sent = sum(v.sent_bytes or 0 for v in self.variants)
        return f"{self.reference}: {format_size(total)}, of which {format_size(sent)} were sent"

    def tables(self) -> Sequence[ResultTable]:
        """Each variant."""
        rows = [
            (v.variant, format_size(v.num_bytes), format_size(v.memory_bytes), v.gate)
            for v in self.variants
        ]
        return [ResultTable(columns=("variant", "size>", "memory>", "gate"), rows=rows)]

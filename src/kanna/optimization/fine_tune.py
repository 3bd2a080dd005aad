"""A fine-tune that is optimized: its base, the examples that judge it, the text of its domain."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from kanna._util.atomic import write_text
from kanna._util.progress import Progress
from kanna.adapters import merged_source, open_adapters
from kanna.calibration.self_generated import SELF
from kanna.checks import Retention
from kanna.comparison.rows import Row
from kanna.conversion import WriteOptions, lone_adapter
from kanna.errors import UsageError
from kanna.hardware.cpu import default_threads
from kanna.optimization.request import OptimizeRequest
from kanna.sources import Source
from kanna.training import HELD_OUT, examples, learned, near_duplicates, tables
from kanna.training.tokens import ChatTokenizer, TokenizedExample
from kanna.verification import retention as gains

APART = "adapters"
"""In the output folder: adapters that stay apart, in the format of the artefact."""
_WHOLE = 1 << 20
"""Tokens of an example that is calibrated on: all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainText:
    """A file of the user's own text, as the model reads it, without what judges the artefact.

    Attributes:
        name: Of the file.
        texts: One for each example.
    """

    name: str
    texts: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTune:
    """What an artefact is made of besides its base, and what it is held to.

    Attributes:
        base: The model before the fine-tune.
        tuned: The same with its adapters, merged when tensors are read.
        held_out: The examples that judge it.
        judging: The same as they were given.
        domain: Text to calibrate on; [] where none was named.
        least: Share of the gain that an artefact must keep.
        name: Of the adapter, as the user gave it, where it stays apart.
        alone: The adapter in the format of the artefact, which lies beside it; None: it is merged.
        notes: What the user must know.
    """

    base: Source
    tuned: Source
    held_out: Sequence[TokenizedExample]
    domain: Sequence[DomainText]
    least: float
    judging: Sequence[examples.Example] = ()
    name: str = ""
    alone: Path | None = None
    notes: Sequence[str] = field(default_factory=list[str])

    def with_domain(
        self, resolved: Sequence[str | Path] | None, request: OptimizeRequest, folder: Path
    ) -> Sequence[str | Path] | None:
        """What `calibrate` reads in place of files that were named: texts without what judges.

        Args:
            resolved: The files, and text that the model sampled; None: the built-in set.
            request: Which files were named.
            folder: Where the text is written.
        """
        if not self.domain:
            return resolved
        given = {Path(one) for one in request.calibration or ()}
        sampled = [path for path in resolved or () if path not in given]
        return [*self._write_domain(folder), *sampled]

    def _write_domain(self, folder: Path) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        paths: list[Path] = []
        for index, one in enumerate(self.domain):
            path = folder / f"{index:02d}-{Path(one.name).stem}.jsonl"
            lines = (json.dumps({"text": text}, ensure_ascii=False) for text in one.texts)
            write_text(path, "".join(f"{line}\n" for line in lines))
            paths.append(path)
        return paths

    def judge(self, rows: Sequence[Row], threads: int | None, progress: Progress) -> None:
        """Measure what files keep of the gain: a check of each, beside those of its gate.

        Args:
            rows: The files; those that failed a check before are left out.
            threads: Threads to use.
            progress: Where progress is reported.
        """
        able = [row for row in rows if row.path and row.gate != "failed"]
        if not able:
            return
        for row, kept in zip(
            able, self.measure([Path(r.path or "") for r in able], threads, progress), strict=True
        ):
            made = gains.check(kept, alone=False)
            figures = asdict(kept)
            if self.alone is None:
                row.retention = figures
            else:
                made = [replace(check, name=f"{check.name} of {self.name}") for check in made]
                row.beside.append({"adapter": self.name, "file": str(self.alone)} | figures)
                row.retention = min(figures, row.retention or figures, key=_kept)
            row.checks = [*row.checks, *(check.to_dict() for check in made)]
            if any(check.ok is False for check in made):
                row.gate = "failed"
            elif any(check.ok is None for check in made) and row.gate == "proved":
                row.gate = "unprovable"

    def measure(
        self, paths: Sequence[Path], threads: int | None, progress: Progress
    ) -> list[Retention]:
        """What files keep of the gain, with the adapter beside each where it stays apart."""
        case = gains.RetentionCase(
            base=self.base,
            tuned=self.tuned,
            artefacts=[
                path if self.alone is None else gains.BesideBase(base=path, adapter=self.alone)
                for path in paths
            ],
            examples=self.held_out,
            threads=threads or default_threads(),
        )
        return gains.measure(case, self.least, progress)

    def write_alone(self, options: WriteOptions) -> None:
        """Write the adapter beside the artefact, where it stays apart.

        Args:
            options: How it is written.
        """
        if self.alone is not None:
            self.alone.parent.mkdir(exist_ok=True)
            lone_adapter.convert(
                self.base, self.name, self.alone, format=self.alone.suffix[1:], options=options
            )


def _kept(figures: dict[str, Any]) -> tuple[bool, float]:
    """Puts first what cannot be measured, then what keeps least."""
    return figures["share"] is not None, figures["share"] or 0.0


def open_fine_tunes(base: Source, request: OptimizeRequest) -> list[FineTune]:
    """The fine-tune that a request names, or each of them where adapters stay apart.

    Raises:
        SourceError: An adapter does not fit the base.
        UnsupportedError: One that is to stay apart has something that no runtime applies there.
        UsageError: There are no held-out examples, or nothing else to calibrate on; the adapter
            learned from examples that are to judge it, or a text to calibrate on holds some of
            them inside it.
    """
    if not request.adapter:
        return []
    read = open_adapters(dict(request.adapter), offline=request.offline)
    groups = [[one] for one in read] if request.apart else [read]
    tuned = [merged_source(base, group) for group in groups]
    held_out = [
        gains.held_out(group[0][0], request.data, one)
        for group, one in zip(groups, tuned, strict=True)
    ]
    judging = [
        examples.read(request.data or group[0][0].path / HELD_OUT).examples for group in groups
    ]
    every = [one for given in judging for one in given]
    domain, notes = _domain(request.calibration, every, tuned[0])
    tunes = [
        FineTune(
            base=base,
            tuned=tuned[at],
            held_out=held_out[at],
            judging=judging[at],
            domain=domain,
            least=request.retention,
            notes=notes,
        )
        for at in range(len(groups))
    ]
    return _apart(tunes, request) if request.apart else tunes


def _apart(tunes: Sequence[FineTune], request: OptimizeRequest) -> list[FineTune]:
    """The same, each adapter in a file of its own; raises for one that cannot be alone."""
    made: list[FineTune] = []
    taken: set[str] = set()
    for tune, (given, _) in zip(tunes, request.adapter, strict=True):
        lone_adapter.convert(tune.base, given, None, format=request.format, dry_run=True)
        stem = name = Path(given).absolute().name
        number = 1
        while name in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name)
        alone = request.out / APART / f"{name}.{request.format}"
        how = f"{alone} is switched on beside the file: kanna chat FILE --adapter {alone}"
        made.append(replace(tune, name=given, alone=alone, notes=[*tune.notes, how]))
    return made


def _domain(
    given: Sequence[str | Path] | None, judging: Sequence[examples.Example], tuned: Source
) -> tuple[list[DomainText], list[str]]:
    """The text to calibrate on, without examples that judge what comes of it."""
    if given is None:
        note = (
            "the fine-tune was calibrated on the built-in text: --calibration with text of its "
            "own domain keeps more of it"
        )
        return [], [note]
    chats: ChatTokenizer | None = None
    texts: list[DomainText] = []
    equal = {one.to_json() for one in judging}
    left_out, near = 0, 0
    for path in (Path(one) for one in given if str(one) != SELF):
        read = examples.read(path).examples
        kept = apart(read, judging)
        same = sum(one.to_json() in equal for one in read)
        left_out, near = left_out + same, near + len(read) - len(kept) - same
        if not kept:
            raise UsageError(
                f"{path} holds the held-out examples and nothing else",
                expected="other text to calibrate on: nothing may be fitted to what judges it",
                todo="give the data that was trained on, or leave --calibration out",
            )
        parts = [one.words() for one in kept]
        whole = path.suffix in (".jsonl", *tables.SUFFIXES) or path.is_dir()
        learned.refuse_containing(path, parts if whole else ["\n\n".join(parts)], judging)
        chats = chats or ChatTokenizer.of_source(tuned, _WHOLE)
        texts.append(DomainText(name=path.name, texts=[chats.text(one) for one in kept]))
    counted = [
        (left_out, "held-out examples were left out of the calibration text"),
        (near, "examples that are nearly the same as held-out ones were left out too"),
    ]
    return texts, [f"{number} {what}" for number, what in counted if number]


def apart(
    given: Sequence[examples.Example], judging: Sequence[examples.Example]
) -> list[examples.Example]:
    """Examples that are not, or nearly, among those that judge.

    Args:
        given: The examples.
        judging: Those that judge.
    """
    cluster = near_duplicates.clusters([one.words() for one in (*judging, *given)])
    held = set(cluster[: len(judging)])
    return [one for one, c in zip(given, cluster[len(judging) :], strict=True) if c not in held]

"""The record of a verb as a step: what it reads, makes and measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from kanna.recipes.document import Value

Figure: TypeAlias = Callable[[Value], Value]
"""Takes something out of a result, None where it was not measured."""

MODEL, STATISTICS, PLAN, REPORT, FOLDER = "model", "statistics", "plan", "report", "folder"
TEXT, IMATRIX, KEY, WHEEL, ADAPTER = "text", "imatrix", "key", "wheel", "adapter"
GATE = "gate"
ANEW, SAME, ANY = "anew", "same", "any"
"""What an earlier run of a step that did not end is good for: nothing, the same, or any options."""

StepMemory: TypeAlias = Callable[[Mapping[str, Value], int], int]
"""Bytes that a step takes at most, of its options and the number of weights that it reads."""
_BASE, _TORCH = 300 << 20, 600 << 20
"""Bytes of Python with what a verb loads, and of torch and transformers beside it."""


def streamed(options: Mapping[str, Value], weights: int) -> int:
    """Memory of a verb that reads weights in blocks of rows; of a whole model where it proves."""
    return loaded(4)(options, weights) if options.get("verify") else _BASE


def loaded(bytes_per_weight: float) -> StepMemory:
    """Memory of a verb that holds a whole model, in so many bytes per weight.

    Args:
        bytes_per_weight: With all that is held beside each.
    """
    return lambda _, weights: _BASE + _TORCH + int(bytes_per_weight * weights)


def at(*keys: str | int) -> Figure:
    """What lies at a place of a result; None where there is no such place."""

    def read(result: Value) -> Value:
        for key in keys:
            if isinstance(result, dict) and isinstance(key, str):
                result = result.get(key)
            elif isinstance(result, list) and isinstance(key, int) and key < len(result):
                result = result[key]
            else:
                return None
        return result

    return read


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFile:
    """Something a step makes.

    Attributes:
        kind: What it is; an option of another step takes some kinds.
        path: Where it is, as the result says; None: what the step writes, where it was told to.
        about: What it is, in a line.
    """

    kind: str
    path: Figure | None = None
    about: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a step would make, known before it runs.

    Attributes:
        file_bytes: Bytes of the artefacts; None: not known.
        memory_bytes: Memory that the largest of them takes when it runs, at 4,096 tokens.
        step_bytes: Memory that the step itself takes at most; None: not known.
        what: Where the figures are from, in a few words.
    """

    file_bytes: int | None = None
    memory_bytes: int | None = None
    step_bytes: int | None = None
    what: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepVerb:
    """A verb that a recipe can name.

    Attributes:
        inputs: Options that name files or models, and the kinds that each takes.
        outputs: What the step makes by name, its main output first.
        figures: What conditions and the report can use of the result, by name.
        out: The name of what it writes in the folder of the step, of the step's name and options;
            None: it writes nothing.
        writes: The parameter that says where that is.
        holds: Whether the step ends well, of its result; None: where the result is `ok`.
        resumes: What of an unfinished run can be used: `anew`, `same` or `any`.
        shared: Patterns of files of an unfinished or another run of the step that this one can
            begin with: the verb itself knows what of them still holds.
        measures: Whether the result is about this machine.
        times: Whether the result has speeds that are measured beside it: then nothing runs beside
            the step, as beside one that `measures`.
        runs: Whether it runs models, each in the runtime of its format.
        remarks: Whether it takes `remark`.
        words: What an option for files takes that is none.
        own: Parameters that are the run's to set, beside its output and progress.
        check: Raises KannaError for options that it would refuse, before anything runs.
        predict: What a step with these options would make; raises KannaError where it cannot tell.
        memory: Bytes of its own that a step takes at most, of its options and of the weights that
            the largest model has which it reads. Steps run beside each other by it.
    """

    inputs: Mapping[str, frozenset[str]]
    outputs: Mapping[str, StepFile] = field(default_factory=dict[str, StepFile])
    figures: Mapping[str, Figure] = field(default_factory=dict[str, Figure])
    out: Callable[[str, Mapping[str, Value]], str] | None = None
    writes: str = "out"
    holds: Callable[[Value], bool] | None = None
    resumes: str = ANEW
    shared: tuple[str, ...] = ()
    measures: bool = False
    times: bool = False
    runs: bool = False
    remarks: bool = False
    words: frozenset[str] = frozenset()
    own: frozenset[str] = frozenset()
    check: Callable[[Mapping[str, Value]], None] | None = None
    predict: Callable[[Mapping[str, Value]], Prediction] | None = None
    memory: StepMemory = streamed

    @property
    def alone(self) -> bool:
        """Whether it needs the machine for itself."""
        return self.measures or self.times


def kinds(*names: str) -> frozenset[str]:
    """Kinds that an option takes."""
    return frozenset(names)

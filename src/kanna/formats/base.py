"""What a format is: a plain record of everything kanna knows of a container for models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kanna.encodings import Encoding
from kanna.formats.memory import RuntimeMemory
from kanna.plan.presets import Preset

FLOATS = ("bf16", "f16", "f32")
"""Types of unquantized weights that sources have."""


def as_written(name: str) -> str:
    """A preset's name, where it has no other spellings."""
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A container that artefacts are written in; `formats/<name>/` exports one as FORMAT.

    Adapters of the same name lie in the packages of the verbs: `conversion/<name>.py` writes it,
    `optimization/adapters/<name>.py` searches it, `serving/engines/<name>.py` serves it. What
    installs their packages is said there.

    Attributes:
        name: As `--format` has it, and a preset before its colon.
        title: As people write it.
        opens: Whether a path is an artefact of this format, by its name or the files in its folder.
        carries: Whether it can hold matrices of an encoding.
        suffix: Of an artefact that is one file; "" where it is a folder.
        runtime: Name in `kanna.runtimes` of what runs it; "" for a format that is only written.
        runtime_title: That runtime as people write it.
        presets: Named plans, by name.
        default_preset: Taken when neither preset, encoding nor plan is named.
        compared_presets: Those that `compare` makes when none is named.
        whole_presets: The preset that keeps the weights of a source best, by the type most of them
            have, `bf16` or `f16`.
        exact_preset: The preset that keeps the blocks of a quantized source; "" where none does.
        canonical: The name of a preset from any spelling; raises PlanError for none.
        memory: What the runtime takes beside the weights; None for a format that is only written.
        size_note: What sizes known before writing leave out; "" where they are exact.
        symbol: Corners of its mark in charts, about the unit circle; () for the circle itself.
    """

    name: str
    title: str
    opens: Callable[[Path], bool]
    carries: Callable[[Encoding], bool]
    suffix: str = ""
    runtime: str = ""
    runtime_title: str = ""
    presets: Mapping[str, Preset] = field(default_factory=dict[str, Preset])
    default_preset: str = ""
    compared_presets: Sequence[str] = ()
    whole_presets: Mapping[str, str] = field(default_factory=dict[str, str])
    exact_preset: str = ""
    canonical: Callable[[str], str] = as_written
    memory: RuntimeMemory | None = None
    size_note: str = ""
    symbol: Sequence[tuple[float, float]] = ()

    @property
    def runs(self) -> bool:
        """Whether something here runs its artefacts, so that they can be measured and compared."""
        return bool(self.runtime)

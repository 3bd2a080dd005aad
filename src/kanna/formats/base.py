"""What a format is: a plain record of everything kanna knows of a container for models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from kanna.checks import Check
from kanna.encodings import Encoding
from kanna.formats.memory import RuntimeMemory
from kanna.model import Tensor
from kanna.plan.presets import Preset

FLOATS = ("bf16", "f16", "f32")
"""Types of unquantized weights that sources have."""


def no_build() -> str:
    """Of a format whose runtime is not told apart by its packages."""
    return ""


def as_written(name: str) -> str:
    """A preset's name, where it has no other spellings."""
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredWeights:
    """What the weights of an artefact take as they are stored.

    Attributes:
        sizes: Bytes of each tensor, by its name in the artefact.
        nbytes: Bytes of all of them, with what the container cannot do without.
        activation_bits: Of codes that products read, one range each; None: they read floats.
        rounded_inputs: Which products round the floats that they read, in words; "": none.
        half_activations: Whether its runtime computes in float16, which ends at 65504.
    """

    sizes: Mapping[str, int]
    nbytes: int
    activation_bits: int | None = None
    rounded_inputs: str = ""
    half_activations: bool = False

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> StoredWeights:
        """Those of tensors that are stored as they are read."""
        sizes = {name: tensor.nbytes for name, tensor in tensors.items()}
        return cls(sizes=sizes, nbytes=sum(sizes.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderContents:
    """What is read back from a folder beside its config.json and tokenizer files.

    Attributes:
        tensors: By their names in Hugging Face.
        weight_files: The files that hold them.
    """

    tensors: Mapping[str, Tensor]
    weight_files: Sequence[Path]


class CheckNames(Protocol):
    """Raises FormatError for a folder in which a file names another outside it."""

    def __call__(self, path: Path, *, graphs: bool = False) -> None: ...


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
        build: The packages of it that are here, with their versions: costs of encodings are theirs
            alone; "" where they are not here.
        presets: Named plans, by name.
        default_preset: Taken when neither preset, encoding nor plan is named.
        compared_presets: Those that `compare` makes when none is named.
        whole_presets: The preset that keeps the weights of a source best, by the type most of them
            have, `bf16` or `f16`.
        exact_preset: The preset that keeps the blocks of a quantized source; "" where none does.
        canonical: The name of a preset from any spelling; raises PlanError for none.
        memory: What the runtime takes beside the weights; None for a format that is only written.
        weights: Reads what the weights of an artefact take, for the bounds of `verify`.
        contents: Reads the tensors of a folder, so that it can be a source; None where
            `kanna.sources` reads them by itself, or nothing is read back.
        check_files: Checks the files of an artefact that nothing is read back from, given the
            context its model should have; None where tensors are compared one by one.
        check_beside: Checks the files that the runtime needs beside those that are read back; None
            where there are none.
        check_names: Refuses a folder in which a file names another outside it or a library to load,
            or is a graph that no runtime should open; with `graphs` also what graphs name. None
            where nothing names any.
        keeps_provenance: Whether its artefacts say how they were made.
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
    build: Callable[[], str] = no_build
    presets: Mapping[str, Preset] = field(default_factory=dict[str, Preset])
    default_preset: str = ""
    compared_presets: Sequence[str] = ()
    whole_presets: Mapping[str, str] = field(default_factory=dict[str, str])
    exact_preset: str = ""
    canonical: Callable[[str], str] = as_written
    memory: RuntimeMemory | None = None
    weights: Callable[[Path], StoredWeights] | None = None
    contents: Callable[[Path], FolderContents] | None = None
    check_files: Callable[[Path, int | None], Check] | None = None
    check_beside: Callable[[Path], Check] | None = None
    check_names: CheckNames | None = None
    keeps_provenance: bool = False
    size_note: str = ""
    symbol: Sequence[tuple[float, float]] = ()

    @property
    def runs(self) -> bool:
        """Whether something here runs its artefacts, so that they can be measured and compared."""
        return bool(self.runtime)

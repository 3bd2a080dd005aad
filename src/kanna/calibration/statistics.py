"""Calibration statistics: second moments of the inputs of every matrix, in a folder.

index.json        source and text hashes, settings; per site its tensors, columns and shrinkage
layer-NNNNN.safetensors, head.safetensors
    SITE.second   f32 [blocks, n, n]     mean of x xᵀ, in blocks along the diagonal
    SITE.mean     f32 [columns]          mean of x
    SITE.held     f16 [tokens, columns]  inputs from text that is held out of the statistics
embedding.safetensors
    counts        i64 [vocabulary]       how often each row is read
sketch.safetensors                       some values of the source, see `fingerprint`
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kanna._util.typed import OBJECT, TEXTS, TypedObject, number, text, whole
from kanna.calibration import fingerprint
from kanna.errors import FormatError, PlanError, SourceError
from kanna.formats import gguf
from kanna.formats.text_files import read_object
from kanna.methods.hessian import SecondMoment
from kanna.model import F32, Model, columns

INDEX = "index.json"
FINGERPRINT = "sketch.safetensors"
VERSION = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One site of the index.

    Attributes:
        file: Name of the file of its layer.
        columns: Columns of the inputs.
        block: Width of the blocks of its second moment.
        tensors: The GGUF names that read here.
        shrink: Shrinkage toward the diagonal, chosen by held-out text.
    """

    file: str
    tensors: list[str]
    columns: int
    block: int
    shrink: float


class Statistics:
    """A folder of statistics, opened; matrices are read when asked for."""

    def __init__(self, folder: Path, info: dict[str, Any]) -> None:
        self.folder, self.info = folder, info
        sites = TypedObject.of(info, INDEX, "calibrate again")
        named = sites.need("sites", OBJECT)
        self.sites = {name: _site(sites.part("sites").part(name)) for name in named}
        self.site_of = {
            tensor: name for name, site in self.sites.items() for tensor in site.tensors
        }
        self._second_moments: dict[str, SecondMoment] = {}

    @cached_property
    def sha256(self) -> str:
        """Hash of the index, which holds those of everything the statistics were made from."""
        return hashlib.sha256((self.folder / INDEX).read_bytes()).hexdigest()

    def read(self, site: str, what: str) -> Any:
        """`second`, `mean` or `held` of a site, as numpy."""
        from safetensors import safe_open

        path = self.folder / self.sites[site].file
        try:
            with safe_open(str(path), framework="np") as file:
                return file.get_tensor(f"{site}.{what}")
        except Exception as error:  # safetensors raises several types of its own
            raise FormatError(f"{path} cannot be read: {error}", todo="calibrate again") from error

    @cached_property
    def weights(self) -> dict[str, F32]:
        """Mean square of each input column by tensor name: what an imatrix holds."""
        weights: dict[str, F32] = {}
        for name, site in self.sites.items():
            blocks = self.read(name, "second")
            diagonal = np.concatenate([b.diagonal() for b in blocks]).astype(np.float32)
            weights |= dict.fromkeys(site.tensors, diagonal)
        return weights

    def second_moment(self, tensor: str) -> SecondMoment | None:
        """The second moment of a tensor's inputs, shared by the tensors of its site."""
        name = self.site_of.get(tensor)
        if name is None:
            return None
        if name not in self._second_moments:
            self._second_moments[name] = SecondMoment(
                lambda: self.read(name, "second"), shrink=self.sites[name].shrink
            )
        return self._second_moments[name]

    def check(self, model: Model) -> None:
        """Raise PlanError when these are the statistics of another model, by shapes or values."""
        for name, site in self.sites.items():
            for tensor in site.tensors:
                have = model.tensors.get(tensor)
                if have is None or columns(have) != site.columns:
                    actual = "no such tensor" if have is None else f"{columns(have)} columns"
                    raise self._other(
                        f"{name} has {site.columns} columns for {tensor}, this model {actual}",
                        model,
                    )
        try:
            now = fingerprint.compute(model)
        except SourceError:
            return  # a dry run of a hub id: only headers are here, and nothing is written
        if reason := fingerprint.difference(self._fingerprint, now):
            raise self._other(reason, model)

    @cached_property
    def _fingerprint(self) -> dict[str, fingerprint.SampledValues]:
        return fingerprint.load(self.folder / FINGERPRINT)

    def _other(self, why: str, model: Model) -> PlanError:
        return PlanError(
            f"the statistics in {self.folder} are of another model: {why}",
            expected=f"statistics of {model.name}",
            todo="make them with `kanna calibrate SRC -o FOLDER`; "
            "to use these for a close relative all the same: "
            f"--imatrix {self.folder / 'imatrix.gguf'}",
        )

    def save_imatrix(self, path: Path) -> None:
        """Write the diagonals as a GGUF that llama-quantize takes for --imatrix."""
        write_imatrix(
            path,
            self.weights,
            self.info["tokens"],
            self.info["window"],
            [self.info["text"]["name"]],
        )


def read(folder: Path | str) -> Statistics:
    """Open statistics. Raises PlanError when there are none, FormatError for damaged ones."""
    folder = Path(folder)
    if not (folder / INDEX).is_file():
        raise PlanError(
            f"{folder} holds no statistics", expected=INDEX, todo=f"kanna calibrate SRC -o {folder}"
        )
    try:
        index = read_object(folder / INDEX, "calibrate again")
        version = index.need("version", whole())
        if version == VERSION:
            index.need("tokens", whole(0, 1 << 53))
            index.need("window", whole(1))
            index.part("text").need("name", text(4096))
            return Statistics(folder, dict(index.values))
    except FormatError as error:
        raise FormatError(
            f"{folder / INDEX} is damaged: {error.found}",
            expected=error.expected,
            todo="calibrate again",
        ) from None
    raise FormatError(f"{folder} has statistics of version {version}", todo="calibrate again")


def _site(given: TypedObject) -> Site:
    """A site of the index; its file is beside it."""
    file = given.need("file", text(255, 1))
    if Path(file).name != file or "\\" in file:
        raise FormatError(f"{INDEX} names the file {file!r}", expected="a plain file name")
    return Site(
        file=file,
        tensors=given.need("tensors", TEXTS),
        columns=given.need("columns", whole(1)),
        block=given.need("block", whole(1)),
        shrink=given.need("shrink", number(0.0, 1.0)),
    )


def write_imatrix(
    path: Path, weights: Mapping[str, F32], tokens: int, window: int, datasets: Sequence[str]
) -> None:
    """Write an importance matrix as llama-imatrix does (llama.cpp tools/imatrix): sums and counts.

    Args:
        path: File to write; an existing one is replaced.
        weights: Mean square of each input column by tensor name, f32 [columns].
        tokens: Tokens they were measured on.
        window: Tokens of a window, a chunk to llama.cpp.
        datasets: Names of the texts.
    """
    from kanna.encodings import get
    from kanna.families.views import Computed
    from kanna.model import ValueType, array, string, u32
    from kanna.plan.types import TensorPlan

    chunks = max(1, tokens // window)
    metadata = {
        "general.type": string("imatrix"),
        "imatrix.datasets": array(list(datasets), ValueType.STR),
        "imatrix.chunk_count": u32(chunks),
        "imatrix.chunk_size": u32(window),
    }
    entries: list[TensorPlan] = []
    for name in sorted(weights):
        # llama.cpp counts chunks and divides sums by counts: any scale of both is the same.
        sums = np.atleast_2d(weights[name]).astype(np.float32) * np.float32(chunks)
        counts = np.full((len(sums), 1), chunks, np.float32)
        for part, values in ((".in_sum2", sums), (".counts", counts)):
            tensor = Computed(name + part, np.ascontiguousarray(values))
            entries.append(
                TensorPlan(name=tensor.name, tensor=tensor, encoding=get("f32"), method="nearest")
            )
    gguf.write(path, metadata=metadata, tensors=entries, overwrite=True)

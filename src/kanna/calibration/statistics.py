"""Calibration statistics: second moments of the inputs of every matrix, in a folder.

index.json        source and text hashes, settings; per site its tensors, columns and shrinkage
layer-NNNNN.safetensors, head.safetensors
    SITE.second   f32 [blocks, n, n]     mean of x xᵀ, in blocks along the diagonal
    SITE.mean     f32 [columns]          mean of x
    SITE.held     f16 [tokens, columns]  inputs from text that is held out of the statistics
  where experts read, besides:
    SITE.experts  f32 [experts, blocks, m, m]       mean of x xᵀ over the tokens of each expert
    SITE.squares  f32 [experts, columns]            their diagonals
    SITE.tokens   i64 [experts]                     tokens of each
    SITE.routes   i32 [tokens, experts of a token]  where the held-out inputs go
  in a shard, besides:
    SITE.count    i64 [1]                tokens of the means; held-out inputs are all there
embedding.safetensors
    counts        i64 [vocabulary]       how often each row is read
sketch.safetensors                       some values of the source, see `fingerprint`
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from kanna._util.typed import OBJECT, TEXTS, TypedObject, listed, number, text, whole
from kanna.calibration import fingerprint, imatrix
from kanna.calibration.devices import CPU
from kanna.calibration.shrinkage import blended
from kanna.calibration.sites import is_stack
from kanna.errors import FormatError, KannaError, PlanError, SourceError
from kanna.formats.text_files import read_object
from kanna.methods.hessian import ExpertMoments, SecondMoment
from kanna.model import F32, Model, columns

INDEX = "index.json"
FINGERPRINT = "sketch.safetensors"
HELD_TEXT = "held.txt"
"""In the folder: the text that was held out."""
IMATRIX = "imatrix.gguf"
"""In the same folder: the diagonals, for llama.cpp."""
SHARD = "shard"
"""In the index of a shard: which part of the text it is of."""
DEVICE, REMARKS = "device", "remarks"
"""In the index: where it was computed, and what was done where the memory of that ran out."""
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
        experts: Tokens that went to each expert; none where no experts read.
        shared: Tokens that the second moment of all experts counts for.
    """

    file: str
    tensors: list[str]
    columns: int
    block: int
    shrink: float
    experts: list[int]
    shared: float

    def shares(self) -> F32:
        """How much of each expert's statistics is its own, f32 [experts]; the rest is shared."""
        tokens = np.array(self.experts, np.float64)
        return (tokens / np.maximum(tokens + self.shared, 1e-12)).astype(np.float32)


class Statistics:
    """A folder of statistics, opened; matrices are read when asked for.

    Attributes:
        feedback_device: Where error feedback under second moments runs, and factors are computed;
            set before they are asked for.
    """

    def __init__(self, folder: Path, info: dict[str, Any]) -> None:
        self.folder, self.info, self.feedback_device = folder, info, CPU
        sites = TypedObject.of(info, INDEX, "calibrate again")
        named = sites.need("sites", OBJECT)
        self.sites = {name: _site(sites.part("sites").part(name)) for name in named}
        self.site_of = {
            tensor: name for name, site in self.sites.items() for tensor in site.tensors
        }
        self._second_moments: dict[str, SecondMoment] = {}

    @property
    def computed_on(self) -> str:
        """Where they were computed: on the CPU, where they do not say it."""
        return TypedObject.of(self.info, INDEX, "calibrate again").get(DEVICE, text(64), CPU)

    @property
    def remarks(self) -> list[str]:
        """What was done where the memory of that did not suffice."""
        return TypedObject.of(self.info, INDEX, "calibrate again").get(REMARKS, TEXTS, [])

    @cached_property
    def sha256(self) -> str:
        """Hash of the index, which holds those of everything the statistics were made from."""
        return hashlib.sha256((self.folder / INDEX).read_bytes()).hexdigest()

    def read(self, site: str, what: str, index: int | None = None) -> Any:
        """`second`, `mean`, `held` … of a site, as numpy, or one part of it along the first axis.

        Args:
            site: Name of the site.
            what: The array.
            index: The part; None: all of it.
        """
        from safetensors import safe_open

        path = self.folder / self.sites[site].file
        try:
            with safe_open(str(path), framework="np") as file:
                if index is None:
                    return file.get_tensor(f"{site}.{what}")
                return file.get_slice(f"{site}.{what}")[index]
        except Exception as error:  # safetensors raises several types of its own
            raise FormatError(f"{path} cannot be read: {error}", todo="calibrate again") from error

    @cached_property
    def weights(self) -> dict[str, F32]:
        """Mean square of each input column by tensor name, f32 [columns] or [experts, columns].

        That of an expert is moved toward that of all as its second moment is.
        """
        weights: dict[str, F32] = {}
        for name, site in self.sites.items():
            diagonal = self._diagonal(name)
            weights |= dict.fromkeys(site.tensors, diagonal)
            if site.experts:
                share = site.shares()[:, None]
                each = share * self.read(name, "squares") + (1 - share) * diagonal
                stacks = [tensor for tensor in site.tensors if is_stack(tensor)]
                weights |= dict.fromkeys(stacks, np.asarray(each, np.float32))
        return weights

    def _diagonal(self, site: str) -> F32:
        """Mean square of each input column, f32 [columns]."""
        blocks = self.read(site, "second")
        return np.concatenate([b.diagonal() for b in blocks]).astype(np.float32)

    def second_moment(self, tensor: str) -> SecondMoment | None:
        """The second moment of a tensor's inputs, shared by the tensors of its site."""
        name = self.site_of.get(tensor)
        if name is None:
            return None
        stack = is_stack(tensor)
        key = f"{name}.experts" if stack else name
        if key not in self._second_moments:
            site = self.sites[name]
            each = [
                SecondMoment(
                    partial(self._expert, name, e), shrink=site.shrink, device=self.feedback_device
                )
                for e in range(len(site.experts) if stack else 0)
            ]
            shared = partial(self.read, name, "second")
            self._second_moments[key] = (
                ExpertMoments(shared, each, shrink=site.shrink, device=self.feedback_device)
                if stack
                else SecondMoment(shared, shrink=site.shrink, device=self.feedback_device)
            )
        return self._second_moments[key]

    def _expert(self, name: str, expert: int) -> list[F32]:
        """Blocks of one expert's second moment, moved toward that of all."""
        site = self.sites[name]
        each = self.read(name, "experts", expert)
        return [*blended(self.read(name, "second"), each, site.experts[expert], site.shared)]

    def held(self, tensor: str, expert: int | None = None) -> F32:
        """Held-out inputs of a tensor, or of one expert of it, f32 [tokens, columns]."""
        name = self.site_of[tensor]
        held = self.read(name, "held")
        if expert is not None:
            held = held[(self.read(name, "routes") == expert).any(axis=1)]
        return held.astype(np.float32)

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
                if is_stack(tensor) and have.shape[0] != len(site.experts):
                    raise self._other(
                        f"{name} has {len(site.experts)} experts for {tensor}, this model "
                        f"{have.shape[0]}",
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
        """Write the diagonals as a GGUF that llama-quantize takes for --imatrix.

        Those of experts are what their own tokens gave, as llama-imatrix has them.
        """
        weights: dict[str, F32] = {}
        counts: dict[str, list[int]] = {}
        for name, site in self.sites.items():
            plain = [tensor for tensor in site.tensors if not is_stack(tensor)]
            weights |= dict.fromkeys(plain, self._diagonal(name))
            stacks = [tensor for tensor in site.tensors if is_stack(tensor)]
            if stacks:
                squares: F32 = self.read(name, "squares")
                weights |= dict.fromkeys(stacks, squares)
                counts |= dict.fromkeys(stacks, site.experts)
        imatrix.write(
            path,
            weights,
            counts,
            tokens=self.info["tokens"],
            window=self.info["window"],
            datasets=[self.info["text"]["name"]],
        )


def is_statistics(folder: Path) -> bool:
    """Whether a folder is one of statistics."""
    return (folder / INDEX).is_file() and (folder / FINGERPRINT).is_file()


def is_shard_of(folder: Path, key: Mapping[str, Any]) -> bool:
    """Whether an earlier run wrote the statistics of a shard under this key.

    Args:
        folder: Where they would be.
        key: What they depend on, the shard included.
    """
    try:
        info = read(folder, shard=True).info
    except KannaError:
        return False
    return {name: info.get(name) for name in key} == key


def read(folder: Path | str, *, shard: bool = False) -> Statistics:
    """Open statistics.

    Args:
        folder: Where they are.
        shard: Whether those of a shard are wanted; others are refused then, as shards are else.

    Raises:
        PlanError: There are none, or a shard is where a whole is wanted.
        FormatError: They are damaged.
    """
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
            _require(folder, index, shard)
            return Statistics(folder, dict(index.values))
    except FormatError as error:
        raise FormatError(
            f"{folder / INDEX} is damaged: {error.found}",
            expected=error.expected,
            todo="calibrate again",
        ) from None
    raise FormatError(f"{folder} has statistics of version {version}", todo="calibrate again")


def _require(folder: Path, index: TypedObject, shard: bool) -> None:
    """Raise PlanError for a shard where a whole is wanted, and the other way round."""
    part = index.get(SHARD, OBJECT, {})
    if shard and not part:
        raise PlanError(
            f"{folder} holds the statistics of a whole text",
            expected="those of a shard",
            todo="kanna calibrate SRC --shard I/N -o FOLDER",
        )
    if part and not shard:
        raise PlanError(
            f"{folder} holds shard {part.get('number')} of {part.get('count')}",
            expected="statistics of the whole text",
            todo="kanna statistics merge SHARD … -o FOLDER --source SRC",
        )


def _site(given: TypedObject) -> Site:
    """A site of the index; its file is beside it."""
    file = given.need("file", text(255, 1))
    if Path(file).name != file or "\\" in file:
        raise FormatError(f"{INDEX} names the file {file!r}", expected="a plain file name")
    tensors = given.need("tensors", TEXTS)
    experts = given.get("experts", listed(whole(0, 1 << 53)), [])
    if bool(experts) != any(map(is_stack, tensors)):
        raise FormatError(
            f"{INDEX} has tokens of {len(experts)} experts for {', '.join(tensors)}",
            expected="tokens of every expert where a tensor has some",
        )
    return Site(
        file=file,
        tensors=tensors,
        columns=given.need("columns", whole(1)),
        block=given.need("block", whole(1)),
        shrink=given.need("shrink", number(0.0, 1.0)),
        experts=experts,
        shared=given.get("shared", number(0.0, 1e9), 0.0),
    )

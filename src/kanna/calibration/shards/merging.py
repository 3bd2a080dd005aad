"""Shards added up: second moments by their tokens, held-out inputs in the order of the text."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kanna._util.atomic import json_text, write_text
from kanna._util.locks import holding, remove_stale
from kanna._util.own_files import sweep_for
from kanna._util.progress import Progress
from kanna._util.typed import TypedObject, whole
from kanna.calibration import gradients
from kanna.calibration import statistics as stored
from kanna.calibration.gradients import MeanGradients
from kanna.calibration.run import EMBEDDING
from kanna.calibration.second_moments import ExpertSums, InputSums, step_within
from kanna.calibration.shards.part import MOST
from kanna.calibration.site_entry import site_entry
from kanna.calibration.statistics import SHARD, Statistics
from kanna.errors import FormatError, OutputError, UsageError
from kanna.formats import safetensors
from kanna.model import Model

_Arrays = dict[str, Any]
_OWN = {SHARD, "sites", stored.DEVICE, stored.REMARKS}
"""What shards of one text may differ in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedShards:
    """What was merged, from which shards, and whether gradients were among it."""

    statistics: Statistics
    shards: list[Statistics]
    gradients: bool


def merged(
    folders: Sequence[Path], out: Path, model: Model, *, overwrite: bool, progress: Progress
) -> MergedShards:
    """Write the statistics of a whole text from those of its shards.

    Args:
        folders: Of all shards, in any order.
        out: The folder to write.
        model: What they are of.
        overwrite: Replace statistics that are there.
        progress: Where progress is reported.

    Raises:
        UsageError: They are not the shards of one text.
        PlanError: They are of another model.
        OutputError: There are statistics already, or no folder can be made.
    """
    shards = _in_order([stored.read(folder, shard=True) for folder in folders])
    for shard in shards:
        shard.check(model)
    if out.exists() and (not out.is_dir() or out.resolve() in [f.resolve() for f in folders]):
        raise OutputError(f"{out} is a file or a shard", expected="another folder")
    if (out / stored.INDEX).exists() and not overwrite:
        remove_stale(out)
        raise OutputError(f"{out} holds statistics already", todo="--overwrite replaces them")
    rows = MeanGradients.of([shard.folder for shard in _with_gradients(shards, model)])
    counts, held_text = _readable(shards)
    with holding(out, "statistics", parents=True):
        out.mkdir(parents=True, exist_ok=True)
        sweep_for(out)
        for stale in (stored.INDEX, gradients.FILE):
            (out / stale).unlink(missing_ok=True)
        index = _write(shards, counts, held_text, out, model, progress)
        if rows.tokens:
            rows.save(out, hashlib.sha256(index.encode()).hexdigest())
        write_text(out / stored.INDEX, index)  # last: a folder with an index is complete
        progress.finish()
    made = stored.read(out)
    return MergedShards(statistics=made, shards=shards, gradients=rows.tokens > 0)


def _readable(shards: Sequence[Statistics]) -> tuple[Any, str]:
    """How often each token was read, i64 [vocabulary], and the held-out text of all shards.

    Raises:
        FormatError: One of them is damaged, or holds no numbers; nothing was written yet.
    """
    for shard in shards:
        for name, site in shard.sites.items():
            shard.read(name, "count")
            for what in ("second", "mean", *(["experts"] if site.experts else [])):
                _require_finite(shard.read(name, what), f"{name}.{what}", shard.folder / site.file)
    return sum(_counts(shard) for shard in shards), "".join(map(_held_text, shards))


def _require_finite(values: Any, name: str, path: Path) -> None:
    """Raise FormatError for NaN and infinities, which one shard would spread to the whole."""
    if not np.isfinite(values).all():
        raise FormatError(
            f"{path} holds values of {name} that are not numbers",
            expected="finite values, as `kanna calibrate` writes them",
            todo="calibrate that shard again, with --overwrite",
        )


def _with_gradients(shards: Sequence[Statistics], model: Model) -> list[Statistics]:
    """The shards that have gradients; raises UsageError where others should have some too."""
    read, _ = gradients.windows_read(model, shards[0].info["window"])
    wanted = [shard for shard in shards if shard.info[SHARD]["first"] < read]
    having = [shard for shard in wanted if (shard.folder / gradients.FILE).is_file()]
    without = [str(shard.folder) for shard in wanted if shard not in having]
    if having and without:
        raise UsageError(
            f"{', '.join(without[:3])} have no gradients, others have",
            expected="gradients of all shards, or of none",
            todo="calibrate the same again, with --gradients",
        )
    return having


def _in_order(shards: Sequence[Statistics]) -> list[Statistics]:
    """The shards by number. Raises UsageError where they are not all of one text."""
    numbered: dict[int, Statistics] = {}
    counts: set[int] = set()
    for shard in shards:
        part = TypedObject.of(shard.info, stored.INDEX, "calibrate again").part(SHARD)
        number = part.need("number", whole(1, MOST))
        counts.add(part.need("count", whole(number, MOST)))
        part.need("first", whole(0))
        if number in numbered:
            raise UsageError(
                f"{numbered[number].folder} and {shard.folder} are both shard {number}",
                expected="every shard once",
            )
        numbered[number] = shard
    if missing := set(range(1, max(counts, default=0) + 1)) - set(numbered):
        some = ", ".join(str(number) for number in sorted(missing)[:5])
        raise UsageError(
            f"of {max(counts)} shards, {len(missing)} are not given: {some}",
            expected="the folders of all shards",
        )
    first, *others = [shard for _, shard in sorted(numbered.items())]
    for other in others:
        if differing := _difference(first, other):
            raise UsageError(
                f"{other.folder} differs from {first.folder} in {differing}",
                expected="shards of one model, text and setting",
                todo="calibrate it again as the others were",
            )
    return [first, *others]


def _difference(one: Statistics, other: Statistics) -> str:
    """What of two shards is not the same; "" when all is."""
    for name in sorted((one.info.keys() | other.info.keys()) - _OWN):
        if one.info.get(name) != other.info.get(name):
            return name
    if one.info[SHARD]["count"] != other.info[SHARD]["count"]:
        return "the number of shards"
    return "" if _shapes(one) == _shapes(other) else "its matrices"


def _shapes(shard: Statistics) -> dict[str, tuple[object, ...]]:
    sites = shard.sites.items()
    return {name: (site.file, site.tensors, site.columns, site.block) for name, site in sites}


def _write(
    shards: list[Statistics],
    counts: Any,
    held_text: str,
    out: Path,
    model: Model,
    progress: Progress,
) -> str:
    """Write all but gradients and index; the text of the index."""
    first = shards[0]
    files = sorted({site.file for site in first.sites.values()})
    progress.start("merge", len(files) + 1, "layers")
    entries: dict[str, Any] = {}
    for file in files:
        arrays: _Arrays = {}
        for name in [name for name, site in first.sites.items() if site.file == file]:
            arrays |= _site(name, [_read(shard, name) for shard in shards])
            tensors = [model.tensors[tensor] for tensor in first.sites[name].tensors]
            entries[name] = site_entry(name, file, arrays, tensors, shard=False)
        safetensors.save(out / file, arrays)
        progress.advance(1, file)
    safetensors.save(out / EMBEDDING, {"counts": counts})
    write_text(out / stored.HELD_TEXT, held_text)
    sketch = (first.folder / stored.FINGERPRINT).read_bytes()
    (out / stored.FINGERPRINT).write_bytes(sketch)
    info = {name: value for name, value in first.info.items() if name not in _OWN}
    info[stored.DEVICE] = ", ".join(sorted({shard.computed_on for shard in shards}))
    if remarks := [one for shard in shards for one in shard.remarks]:
        info[stored.REMARKS] = remarks
    index = info | {"sites": {name: entries[name] for name in first.sites}}
    Statistics(out, index).save_imatrix(out / stored.IMATRIX)
    progress.advance(1, "index")
    return json_text(index)


def _read(shard: Statistics, site: str) -> _Arrays:
    """All arrays of a site of one shard, by what they are."""
    names = ["second", "mean", "held", "count"]
    if shard.sites[site].experts:
        names += ["experts", "tokens", "routes"]
    return {name: shard.read(site, name) for name in names}


def _counts(shard: Statistics) -> Any:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(shard.folder / EMBEDDING)["counts"]
    except (OSError, SafetensorError, KeyError) as error:
        raise FormatError(
            f"{shard.folder / EMBEDDING} cannot be read: {error}", todo="calibrate again"
        ) from error


def _held_text(shard: Statistics) -> str:
    path = shard.folder / stored.HELD_TEXT
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path} cannot be read: {error}", todo="calibrate again") from error


def _site(site: str, parts: Sequence[_Arrays]) -> _Arrays:
    """The arrays of one site of the whole text, under their names in the file."""
    counts = np.array([int(part["count"][0]) for part in parts], np.float64)
    held = np.concatenate([part["held"] for part in parts])
    most = (ExpertSums if "experts" in parts[0] else InputSums).most_held
    step = step_within(len(held), most)
    arrays: _Arrays = {
        f"{site}.second": _mean([part["second"] for part in parts], counts),
        f"{site}.mean": _mean([part["mean"] for part in parts], counts),
        f"{site}.held": np.ascontiguousarray(held[::step]),
    }
    if "experts" not in parts[0]:
        return arrays
    tokens = np.stack([part["tokens"] for part in parts])
    each = _mean([part["experts"] for part in parts], tokens.astype(np.float64))
    squares = each.diagonal(axis1=2, axis2=3).reshape(len(each), -1)
    # A shard without held-out text does not know to how many experts a token goes.
    routes = [part["routes"] for part in parts if len(part["routes"])] or [parts[0]["routes"]]
    return arrays | {
        f"{site}.experts": each,
        f"{site}.squares": np.ascontiguousarray(squares),
        f"{site}.tokens": tokens.sum(axis=0),
        f"{site}.routes": np.ascontiguousarray(np.concatenate(routes)[::step]),
    }


def _mean(parts: Sequence[Any], counts: Any) -> Any:
    """Means f32 […] of parts, weighted by counts f64 [parts] or [parts, length of the first axis].

    They are added in double precision, in the order of the text.
    """
    total = np.maximum(counts.sum(axis=0), 1)
    added = np.zeros(parts[0].shape, np.float64)
    for part, count in zip(parts, counts, strict=True):
        share = np.asarray(count / total)
        added += part * share.reshape(*share.shape, *[1] * (part.ndim - share.ndim))
    return added.astype(np.float32)

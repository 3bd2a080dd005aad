"""Text that a model writes by itself, to calibrate on: no data of anyone, and its own distribution.

Every token is drawn from the whole distribution at temperature 1. Half of the sequences open with
the token texts begin with and at times a word, half with a user's turn of the model's own chat
template: the question is sampled, then the answer. Sequences go through the network in batches,
each with a seed of its own. A batch is saved when it is complete; the same source gives the same
text from then on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from inspect import signature
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from kanna import families
from kanna._util import verified
from kanna._util.atomic import write_text
from kanna._util.progress import Progress
from kanna._util.units import format_size
from kanna.calibration import texts
from kanna.calibration.devices import CPU, pick_device, torch_modules
from kanna.calibration.network import Network
from kanna.calibration.prompt_seeds import (
    QUESTION,
    WORDS,
    PromptSeeds,
    Writer,
    prompt_seeds,
    writers,
)
from kanna.calibration.windows import WINDOW
from kanna.errors import KannaError, MissingError
from kanna.hardware.memory import memory
from kanna.model import Model
from kanna.sources import Source
from kanna.sources.packages import cache_dir
from kanna.tokenizer import library

SELF = "self"
TEMPERATURE = 1.0
SEED = 20260101
"""Of the first batch; those after it count on."""
BATCH = 16
HELD_OUT_WINDOWS = 6
"""Windows of each kind beyond those asked for, on which a search decides and reports."""
VERSION = 1
_PARTS = 4
"""Of a batch, that a network reads one after another where memory ran out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationFiles:
    """What to calibrate on.

    Attributes:
        paths: Files; None for the built-in set.
        sampled: Settings of the sampling, when some of it was sampled.
    """

    paths: list[Path] | None
    sampled: dict[str, Any] | None = None


def resolve(
    given: Sequence[str | Path] | str | Path | None,
    source: Source,
    model: Model,
    *,
    tokens: int,
    device: str | None,
    progress: Progress,
) -> CalibrationFiles:
    """The files to calibrate on, with files of sampled text in the place of `self`.

    Raises KannaError when there is too little memory, UsageError for another file that cannot be
    read.

    Args:
        given: Files, and `self`; None: the built-in set.
        source: The source of the model.
        model: The model.
        tokens: How many tokens of sampled text are needed.
        device: cpu, cuda or mps; None: an accelerator when there is one.
        progress: Where progress is reported.
    """
    if given is None:
        return CalibrationFiles(paths=None)
    names = [given] if isinstance(given, (str, Path)) else list(given)
    if not any(str(n) == SELF for n in names):
        return CalibrationFiles(paths=[Path(n) for n in names])
    if others := [n for n in names if str(n) != SELF]:
        texts.documents(others, model)  # raises before anything slow
    settings, files = _sample(source, model, tokens, device, progress)
    paths: list[Path] = []
    for name in names:
        paths += files if str(name) == SELF else [Path(name)]
    return CalibrationFiles(paths=paths, sampled=settings)


def _sample(
    source: Source, model: Model, tokens: int, device: str | None, progress: Progress
) -> tuple[dict[str, Any], list[Path]]:
    import tokenizers

    with library.refusals("tokenizer.json cannot be read"):
        tokenizer: Any = tokenizers.Tokenizer.from_str(
            families.to_hf(model)[2]["tokenizer.json"].decode()
        )
    seeds = prompt_seeds(model, tokenizer)
    length = min(WINDOW, model.whole("{arch}.context_length", 0) or WINDOW)
    where = _where(device)
    settings: dict[str, Any] = {
        **({} if where == CPU else {"device": where}),
        "version": VERSION,
        "temperature": TEMPERATURE,
        "seed": SEED,
        "batch": BATCH,
        "length": length,
        "openings": list(WORDS),
        "question": QUESTION,
        "kinds": list(seeds.kinds),
    }
    key = hashlib.sha256(
        json.dumps([settings, source.hashes(progress)], sort_keys=True).encode()
    ).hexdigest()
    num_windows = -(-tokens // length) + HELD_OUT_WINDOWS * len(seeds.kinds)
    batches = -(-num_windows // BATCH)
    folder = cache_dir() / "sampled" / key[:20]
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"batch-{n:03}.json" for n in range(batches)]
    if missing := [n for n, path in enumerate(paths) if not _is_kept(path)]:
        sampler = _Sampler(Network(model, where), seeds, length, progress)
        progress.start("sample text", len(missing) * length * BATCH, "tokens")
        for n in missing:
            lines = [(w.kind, _text(tokenizer, w.ids)) for w in sampler.batch(n)]
            verified.keep(paths[n], json.dumps(lines, ensure_ascii=False))
        progress.finish()
    return settings, _files(folder / str(batches), paths, seeds.kinds)


def _where(device: str | None) -> str:
    """The device that text is sampled on: another one comes to other text."""
    try:
        return pick_device(device)
    except MissingError:
        return CPU  # what was sampled before is read without torch


def _is_kept(path: Path) -> bool:
    return path.is_file() and verified.unchanged(path) is True


def _text(tokenizer: Any, ids: Sequence[int]) -> str:
    """Token ids as text that tokenizes to them again.

    Decoded between special tokens, since some decoders put spaces next to those.
    """
    special = {
        t: added.content
        for t, added in tokenizer.get_added_tokens_decoder().items()
        if added.special
    }
    parts: list[str] = []
    for is_special, group in groupby(ids, key=lambda t: t in special):
        run = list(group)
        parts += (
            [special[t] for t in run]
            if is_special
            else [tokenizer.decode(run, skip_special_tokens=False)]
        )
    return "".join(parts)


def _files(folder: Path, batches: list[Path], kinds: Sequence[str]) -> list[Path]:
    """One file of JSON lines for each kind, made of the batches."""
    lines: list[tuple[str, str]] = []
    for path in batches:
        lines += json.loads(path.read_text(encoding="utf-8"))
    folder.mkdir(exist_ok=True)
    paths: list[Path] = []
    for kind in kinds:
        paths.append(folder / f"{SELF}-{kind}.jsonl")
        text = "".join(
            json.dumps({"text": t}, ensure_ascii=False) + "\n" for k, t in lines if k == kind
        )
        write_text(paths[-1], text)
    return paths


def _require(model: Model, length: int) -> None:
    """Raise KannaError when the whole network, needed for every token, does not fit in memory."""
    layers = model.whole("{arch}.block_count", least=1)
    heads = model.largest("{arch}.attention.head_count", 1)
    width = families.head_dim_of(model)
    cache = (
        2
        * 4
        * BATCH
        * length
        * layers
        * width
        * model.largest("{arch}.attention.head_count_kv", heads)
    )
    needed, free = 4 * model.num_parameters + cache, memory().available
    if needed > free:
        raise KannaError(
            f"sampling text from {model.name} takes {format_size(needed)} of memory, "
            f"{format_size(free)} are free",
            todo="calibrate on the built-in set, or on text that `kanna generate` wrote "
            "with a quantized file",
        )


class _Sampler:
    """Lets a whole network write, on its device, or on the CPU where the memory of that ran out."""

    def __init__(
        self, network: Network, seeds: PromptSeeds, length: int, progress: Progress
    ) -> None:
        self._network, self._seeds = network, seeds
        self._length, self._progress = length, progress
        self._whole: Any = None
        self._filled_on = ""

    def batch(self, number: int) -> list[Writer]:
        """The writers of a batch, each of them at the end of its text."""
        work = partial(self._batch, number)
        return self._network.within_memory(work, "sampling text", self._progress)

    def _batch(self, number: int) -> list[Writer]:
        network = self._network
        if self._filled_on != network.device:
            self._whole = None
            if network.device == CPU:
                _require(network.model, self._length)
            self._whole, self._filled_on = network.whole(), network.device
        batch = writers(self._seeds, range(number * BATCH, (number + 1) * BATCH))
        parts = 1 if network.device == CPU or network.group > 1 else _PARTS
        _write(
            network, self._whole, batch, self._length, SEED + number, self._progress, parts=parts
        )
        return batch


def _write(
    network: Network,
    whole: Any,
    batch: list[Writer],
    length: int,
    seed: int,
    progress: Progress,
    *,
    parts: int,
) -> None:
    """Let every writer come to `length` tokens, all of them a token at a time.

    The network reads `parts` of them one after another, so that each takes less memory.
    """
    torch, transformers = torch_modules()
    generator = torch.Generator().manual_seed(seed)
    caches, logits = [transformers.DynamicCache(config=whole.config) for _ in range(parts)], None
    # The name that transformers has for it changed.
    name = "cache" if "cache" in signature(whole.forward).parameters else "past_key_values"
    with torch.no_grad():
        for _ in range(length):
            if logits is None:
                drawn = [0] * len(batch)  # not read: every sequence opens with a forced token
            else:
                probability = torch.softmax(logits.float().cpu() / TEMPERATURE, -1)
                drawn = torch.multinomial(probability, 1, generator=generator)[:, 0].tolist()
            ids = np.array([w.next(int(d)) for w, d in zip(batch, drawn, strict=True)], np.int64)
            inputs = torch.from_numpy(ids)[:, None].to(network.device)
            several = [
                whole(input_ids=part, use_cache=True, **{name: cache}).logits[:, -1]
                for part, cache in zip(inputs.chunk(parts), caches, strict=True)
            ]
            logits = torch.cat(several)
            network.check(logits, "the head", "output")
            progress.advance(len(batch))

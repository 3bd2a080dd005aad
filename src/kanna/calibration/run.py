"""The pass over the layers: activations in a file, one layer in memory, each layer saved."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from kanna._util.atomic import write_json
from kanna._util.progress import Progress
from kanna.calibration.devices import torch_modules
from kanna.calibration.listening import Listening
from kanna.calibration.network import Network
from kanna.calibration.second_moments import InputSums, block_of
from kanna.calibration.shared_states import SharedStates
from kanna.calibration.site_entry import site_entry
from kanna.calibration.sites import HEAD, sites_of
from kanna.calibration.windows import CalibrationWindows
from kanna.formats import safetensors
from kanna.methods.device import remarks as remarks_of_methods
from kanna.model import F32, Model

STATE_FOLDER = "work"
EMBEDDING = "embedding.safetensors"
_STATE = "state.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationRun:
    """What came of a pass over the layers.

    Attributes:
        sites: The index of the sites.
        device: Where it was computed.
        remarks: What was done where the memory of that did not suffice.
    """

    sites: dict[str, Any]
    device: str
    remarks: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _SavedLayers:
    """What is saved of every layer.

    Attributes:
        model: The model.
        readers: The tensors that read at each site.
        shard: Whether the text is a part of one, to be merged with others.
    """

    model: Model
    readers: dict[str, list[str]]
    shard: bool


def run(
    model: Model,
    windows: CalibrationWindows,
    folder: Path,
    key: dict[str, Any],
    *,
    widest: int,
    device: str | None,
    progress: Progress,
) -> CalibrationRun:
    """Save every site of `model` into `folder`; the index of them is among what is returned.

    Goes on where an earlier run stopped: its state stays in `folder`/work until `clear`.

    Args:
        model: The model.
        windows: Calibration text.
        folder: Folder of the statistics.
        key: Whatever the statistics depend on; state of another key is not used. That of a shard
            names it.
        widest: Columns up to which a second moment is not cut into blocks.
        device: cpu, cuda or mps; None: an accelerator when there is one.
        progress: Where progress is reported.
    """
    torch, _ = torch_modules()
    network = Network(model, device, SharedStates(folder / STATE_FOLDER))
    named = network.device
    key = key | {"device": named}
    spool = _Spool(folder / STATE_FOLDER, key, (*windows.ids.shape, network.width))
    job = _SavedLayers(model=model, readers=sites_of(model), shard="shard" in key)
    progress.start("calibrate", network.num_layers + 1, "layers")
    # Also records the arguments of the layers.
    hidden = network.within_memory(partial(network.embed, windows.ids), "the embedding", progress)
    if spool.done == 0:
        spool.write(hidden.numpy())
    del hidden
    progress.advance(spool.done)
    with torch.no_grad():
        for index in range(spool.done, network.num_layers):
            sums = network.within_memory(
                partial(_layer, network, index, spool, windows, widest), f"layer {index}", progress
            )
            _save(folder / f"layer-{index:05}.safetensors", sums, spool, job, network.device)
            spool.next()
            progress.advance(1, f"layer {index}")
        head = network.within_memory(
            partial(_head, network, spool, windows, widest), "the head", progress
        )
        _save(folder / "head.safetensors", head, spool, job, network.device)
        counts = np.bincount(
            windows.ids.ravel(), minlength=model.tensors["token_embd.weight"].shape[0]
        )
        safetensors.save(folder / EMBEDDING, {"counts": counts.astype(np.int64)})
        progress.advance(1, "head")
    progress.finish()
    remarks = [*network.remarks, *remarks_of_methods.taken()]
    return CalibrationRun(sites=spool.close(), device=named, remarks=remarks)


def clear(folder: Path) -> None:
    """Remove what is only needed to go on with an interrupted run."""
    shutil.rmtree(folder / STATE_FOLDER, ignore_errors=True)


def _layer(
    network: Network, index: int, spool: _Spool, windows: CalibrationWindows, widest: int
) -> dict[str, InputSums]:
    """Run one layer over every window; sums of each of its sites."""
    torch, _ = torch_modules()
    with network.layer(index) as layer:
        listening = Listening(network, widest)
        listening.hook(index, layer.module)  # type: ignore[attr-defined]
        for numbers in network.groups(windows.held.tolist()):
            listening.held = bool(windows.held[numbers[0]])
            given = torch.stack([spool.window(number) for number in numbers])
            hidden = layer.several(given, numbers)  # type: ignore[attr-defined]
            network.check(hidden, f"layer {index}", f"blk.{index}.")
            for number, state in zip(numbers, hidden.cpu().numpy(), strict=True):
                spool.put(number, state)
    return listening.sums


def _head(
    network: Network, spool: _Spool, windows: CalibrationWindows, widest: int
) -> dict[str, InputSums]:
    norm = network.norm()
    sums: dict[str, InputSums] = {}
    for number in range(len(windows.ids)):
        x = norm(spool.window(number).to(network.device))
        network.check(x, "the last normalisation", "output_norm.")
        if HEAD not in sums:
            sums[HEAD] = InputSums(x.shape[1], block_of(x.shape[1], widest), network.device)
        sums[HEAD].add(x, bool(windows.held[number]))
    return sums


def _save(
    path: Path, sums: dict[str, InputSums], spool: _Spool, job: _SavedLayers, device: str
) -> None:
    """Write the sites of one layer and add them to the index, with the shrinkage each gets."""
    arrays: dict[str, Any] = {}
    for site, site_sums in sums.items():
        arrays |= site_sums.arrays(site, shard=job.shard)
        tensors = [job.model.tensors[name] for name in job.readers[site]]
        spool.sites[site] = site_entry(
            site, path.name, arrays, tensors, shard=job.shard, device=device
        )
    safetensors.save(path, arrays)


class _Spool:
    """Hidden states f32 [windows, tokens, hidden] before and after a layer, in two files.

    The files change places after each layer. state.json holds how many layers are done; it is
    replaced only when everything of a layer is on disk.
    """

    def __init__(self, folder: Path, key: dict[str, Any], shape: tuple[int, ...]) -> None:
        self.folder, self.shape = folder, shape
        self.key = hashlib.sha256(json.dumps([key, shape], sort_keys=True).encode()).hexdigest()
        self.done, self.sites = 0, dict[str, Any]()
        state = self._state()
        names, size = ("even", "odd"), 4 * int(np.prod(shape))
        whole = all((folder / n).is_file() and (folder / n).stat().st_size == size for n in names)
        if whole and state.get("key") == self.key:
            self.done, self.sites = int(state["done"]), state["sites"]
        folder.mkdir(parents=True, exist_ok=True)
        # Plain files: writing to a mapped one ends the process when the disk is full.
        mode = "r+b" if self.done else "w+b"
        self._files = [(folder / name).open(mode, buffering=0) for name in names]
        self._window = (shape[1], shape[2])

    def _state(self) -> dict[str, Any]:
        try:
            return json.loads((self.folder / _STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def write(self, hidden: F32) -> None:
        for number, window in enumerate(hidden):
            self._put(self._files[0], number, window)

    def window(self, number: int) -> Any:
        """Hidden states [tokens, hidden] that go into the next layer."""
        torch, _ = torch_modules()
        hidden = np.empty(self._window, np.float32)
        file = self._files[self.done % 2]
        file.seek(number * hidden.nbytes)
        file.readinto(hidden.data.cast("B"))
        return torch.from_numpy(hidden)

    def put(self, number: int, hidden: F32) -> None:
        """Hidden states [tokens, hidden] that come out of it."""
        self._put(self._files[1 - self.done % 2], number, hidden)

    def _put(self, file: FileIO, number: int, window: F32) -> None:
        data = np.ascontiguousarray(window).data.cast("B")
        file.seek(number * len(data))
        while data:
            data = data[file.write(data) :]

    def next(self) -> None:
        os.fsync(self._files[1 - self.done % 2].fileno())
        self.done += 1
        write_json(self.folder / _STATE, {"key": self.key, "done": self.done, "sites": self.sites})

    def close(self) -> dict[str, Any]:
        for file in self._files:
            file.close()
        return self.sites

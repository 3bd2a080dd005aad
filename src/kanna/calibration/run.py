"""The pass over the layers.

Activations lie in a file, one layer at a time is in memory, every layer is saved.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from kanna._util.atomic import write_json
from kanna._util.progress import Progress
from kanna.calibration import shrink
from kanna.calibration.network import Network, torch_modules
from kanna.calibration.second_moments import Sums, block_of
from kanna.calibration.sites import HEAD, site_of, sites_of
from kanna.calibration.windows import Windows
from kanna.formats import safetensors
from kanna.model import F32, Model

WORK = "work"
_STATE = "state.json"


def run(
    model: Model,
    windows: Windows,
    folder: Path,
    key: dict[str, Any],
    *,
    widest: int,
    device: str | None,
    progress: Progress,
) -> dict[str, Any]:
    """Save every site of `model` into `folder` and return the index of them.

    Goes on where an earlier run stopped.

    What it takes to go on stays in `folder`/work until `clear`.
    """
    torch, _ = torch_modules()
    network = Network(model, device)
    spool = _Spool(folder / WORK, key, (*windows.ids.shape, int(network.config["hidden_size"])))
    readers = sites_of(model.tensors)
    progress.start("calibrate", network.num_layers + 1, "layers")
    hidden = network.embed(windows.ids)  # also tells the network how its layers are called
    if spool.done == 0:
        spool.write(hidden.numpy())
    del hidden
    progress.advance(spool.done)
    with torch.no_grad():
        for index in range(spool.done, network.num_layers):
            sums = _layer(network, index, spool, windows, widest)
            _save(folder / f"layer-{index:05}.safetensors", sums, spool.sites, readers, model)
            spool.next()
            progress.advance(1, f"layer {index}")
        head = _head(network, spool, windows, widest)
        _save(folder / "head.safetensors", head, spool.sites, readers, model)
        counts = np.bincount(
            windows.ids.ravel(), minlength=model.tensors["token_embd.weight"].shape[0]
        )
        safetensors.save(folder / "embedding.safetensors", {"counts": counts.astype(np.int64)})
        progress.advance(1, "head")
    progress.finish()
    return spool.close()


def clear(folder: Path) -> None:
    """Remove what is only needed to go on with an interrupted run."""
    shutil.rmtree(folder / WORK, ignore_errors=True)


def _layer(
    network: Network, index: int, spool: _Spool, windows: Windows, widest: int
) -> dict[str, Sums]:
    """Run one layer over every window; sums of each of its sites."""
    sums: dict[str, Sums] = {}
    held = False

    def listen(site: str) -> Any:
        def hook(_module: Any, given: Any) -> None:
            x = given[0].reshape(-1, given[0].shape[-1])
            if site not in sums:
                sums[site] = Sums(x.shape[1], block_of(x.shape[1], widest), network.device)
            sums[site].add(x, held)

        return hook

    with network.layer(index) as layer:
        heard: set[str] = set()
        for part, module in network.linears(layer.module):  # type: ignore[attr-defined]
            site = site_of(f"blk.{index}.{part}.weight", tied=False)
            if site is not None and site not in heard:
                heard.add(site)
                module.register_forward_pre_hook(listen(site))
        for number in range(len(windows.ids)):
            held = bool(windows.held[number])
            hidden = layer(spool.window(number))
            network.check(hidden, f"layer {index}")
            spool.put(number, hidden.cpu().numpy())
    return sums


def _head(network: Network, spool: _Spool, windows: Windows, widest: int) -> dict[str, Sums]:
    norm = network.norm()
    sums: dict[str, Sums] = {}
    for number in range(len(windows.ids)):
        x = norm(spool.window(number).to(network.device))
        network.check(x, "the last normalisation")
        if HEAD not in sums:
            sums[HEAD] = Sums(x.shape[1], block_of(x.shape[1], widest), network.device)
        sums[HEAD].add(x, bool(windows.held[number]))
    return sums


def _save(
    path: Path,
    sums: dict[str, Sums],
    index: dict[str, Any],
    readers: dict[str, list[str]],
    model: Model,
) -> None:
    """Write the sites of one layer and add them to the index, with the shrinkage each gets."""
    arrays: dict[str, Any] = {}
    for site, found in sums.items():
        made = found.arrays(site)
        arrays |= made
        tensors = [model.tensors[name] for name in readers[site]]
        index[site] = {
            "file": path.name,
            "tensors": readers[site],
            "columns": found.columns,
            "block": found.block,
            "shrink": shrink.choose(tensors, made[f"{site}.second"], made[f"{site}.held"]),
        }
    safetensors.save(path, arrays)


class _Spool:
    """Hidden states float32 [windows, tokens, hidden] before and after a layer, in two files that change places.

    state.json says how many layers are done; it is replaced only when everything of a layer is on disk.
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
        found = np.empty(self._window, np.float32)
        file = self._files[self.done % 2]
        file.seek(number * found.nbytes)
        file.readinto(found.data.cast("B"))
        return torch.from_numpy(found)

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

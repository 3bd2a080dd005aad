"""One backward pass through a model of which one layer is in memory at a time.

On the way forward the hidden states before every layer are kept in files. On the way back each
layer runs again, from its hidden states, and hands on the gradient of them: the arithmetic of
gradient checkpointing (arXiv:1604.06174) with a layer as the piece. A run that was interrupted goes
on at the layer where it stopped.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from kanna._util.progress import Progress
from kanna.calibration.devices import torch_modules
from kanna.calibration.network import Network
from kanna.calibration.per_layer_inputs import PROJECTION, TABLE
from kanna.calibration.shared_states import SharedGradients, SharedStates
from kanna.formats.safetensors import KeyedArrays
from kanna.model import F32, Model

T = TypeVar("T")

EMBEDDING, LAYER_EMBEDDING = "embedding", "layer_embedding"
HEAD = "lm_head"
SEED = 20260101
_STATES, _SHARED, _EMBEDDED = "states", "shared.", "embedded"


@dataclass(slots=True)
class _Squares:
    """Sums of squared gradients, f32 [rows] by module."""

    sums: dict[str, Any] = field(default_factory=dict[str, Any])

    def add(self, name: str, gradient: Any, power: float = 1.0) -> None:
        squares = gradient.reshape(-1, gradient.shape[-1]).square().sum(0) * power
        self.sums[name] = self.sums[name] + squares if name in self.sums else squares

    def hook(self, name: str, module: Any) -> None:
        """Add the gradients of whatever leaves a module."""

        def listen(_module: Any, _given: Any, out: Any) -> None:
            out = out[-1] if isinstance(out, tuple) else out  # a router gives what it chose, too
            if out.requires_grad:
                out.register_hook(partial(self.add, name))

        module.register_forward_hook(listen)

    def arrays(self) -> dict[str, F32]:
        return {name: total.cpu().numpy() for name, total in self.sums.items()}


class _PerLayerGradients:
    """What flows back through the embeddings that each layer has of its own (Gemma 4)."""

    def __init__(self, squares: _Squares, scale: float) -> None:
        self._squares, self._power = squares, scale**2
        self.embedded: dict[int, Any] = {}
        self._leaf: Any = None

    def start(self, rows: Any) -> Any:
        """Scaled embeddings of a window's tokens, [tokens, hidden], as the start of a graph."""
        self._leaf = rows.detach().requires_grad_()
        return self._leaf

    def watch(self, name: str, layer: int, values: Any) -> None:
        """Add the gradients of a layer's part of the table or of the projection."""
        power = self._power if name == TABLE else 1.0
        values.register_hook(partial(self._squares.add, f"{name}.{layer}", power=power))

    def collect(self, number: int) -> None:
        """Add what came back to the embeddings of a window."""
        before = self.embedded.get(number)
        self.embedded[number] = self._leaf.grad if before is None else before + self._leaf.grad


class BackwardPass:
    """The pass over the windows of a text."""

    def __init__(
        self,
        model: Model,
        ids: NDArray[np.int32],
        folder: Path,
        key: str,
        *,
        first: int = 0,
        device: str | None,
        progress: Progress,
    ) -> None:
        """Prepare it.

        Args:
            model: The model.
            ids: Tokens [windows, tokens].
            folder: A folder of its own, where an interrupted run finds what was done.
            key: Hash of what the gradients depend on; files of another are not used.
            first: Where these windows begin in the whole text: labels are drawn by that.
            device: cpu, cuda or mps; None: an accelerator when there is one.
            progress: Where progress is reported.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.network = Network(model, device, SharedStates(folder))
        self._ids, self._folder, self._progress = ids, folder, progress
        self._kept = KeyedArrays(folder, key)
        self._first = first

    def run(self) -> dict[str, F32]:
        """Mean squares of the gradients of every module's outputs per token, f32 [rows]."""
        network, layers = self.network, self.network.num_layers
        self._progress.start("gradients", 2 * layers + 1, "layers")
        embedded = self._run(partial(network.embed, self._ids), "the embedding")
        back = self._kept.read("gradient")
        if back is None:
            self._forward(embedded)
            back = self._run(self._head, "the head")
            done = layers
        else:
            done = int(back["layer"].item())
            self._progress.advance(2 * layers + 1 - done)
        del embedded
        for index in range(done - 1, -1, -1):
            back = self._run(partial(self._layer, index, back), f"layer {index}, backwards")
            self._progress.advance(1, f"layer {index}")
        sums = self._collected(back)
        self._progress.finish()
        shutil.rmtree(self._folder, ignore_errors=True)
        return {n: (total / self._ids.size).astype(np.float32) for n, total in sums.items()}

    def _run(self, work: Callable[[], T], where: str) -> T:
        return self.network.within_memory(work, where, self._progress)

    def _forward(self, hidden: Any) -> None:
        torch, _ = torch_modules()
        states = hidden
        if self._kept.read(self._states(0)) is None:
            self._kept.save(self._states(0), {_STATES: hidden.numpy()})
        for index in range(self.network.num_layers):
            kept = self._kept.read(self._states(index + 1))
            if kept is None:
                states = self._run(partial(self._moved, index, states), f"layer {index}")
                self.network.check(states, f"layer {index}", f"blk.{index}.")
                self._kept.save(self._states(index + 1), {_STATES: states.numpy()})
            else:
                states = torch.from_numpy(kept[_STATES])
            self._progress.advance(1, f"layer {index}")

    def _moved(self, index: int, states: Any) -> Any:
        """Hidden states after a layer, of those before it."""
        torch, _ = torch_modules()
        after = torch.empty_like(states)
        with self.network.layer(index) as layer, torch.no_grad():
            for numbers in self.network.groups([0] * len(states)):
                out = layer.several(states[numbers], numbers)  # type: ignore[attr-defined]
                after[numbers] = out.cpu()
        return after

    def _head(self) -> dict[str, F32]:
        """The gradient of the last hidden states, with labels drawn from the model."""
        torch, _ = torch_modules()
        network, squares, gradients = self.network, _Squares(), list[F32]()
        states = self._kept.read(self._states(network.num_layers))
        assert states is not None
        with network.head() as head:
            squares.hook(HEAD, head.module)  # type: ignore[attr-defined]
            for number, window in enumerate(torch.from_numpy(states[_STATES]), self._first):
                torch.manual_seed(SEED + number)  # a shard draws what the whole text does
                hidden = window.to(network.device).requires_grad_()
                logits = head(hidden)
                network.check(logits, "the head", "output")
                log_probability = torch.log_softmax(logits, -1)
                # Drawn on the CPU, so that every device draws the same.
                labels = torch.multinomial(log_probability.detach().exp().cpu(), 1)
                labels = labels.to(network.device)
                log_probability.gather(1, labels).sum().backward()
                gradients.append(hidden.grad.cpu().numpy())
        self._progress.advance(1, "head")
        return self._handed_on(network.num_layers, squares, {"gradient": np.stack(gradients)})

    def _layer(self, index: int, back: dict[str, F32]) -> dict[str, F32]:
        """Take the gradient through a layer: from what leaves it to what enters it."""
        torch, _ = torch_modules()
        network, squares, gradients = self.network, _Squares(), list[F32]()
        states = self._kept.read(self._states(index))
        assert states is not None
        network.shared = shared = SharedGradients(SharedStates(self._folder))
        shared.load(_named(back, _SHARED))
        further = self._per_layer(squares, back)
        with network.layer(index, further) as layer:
            module: Any = layer.module  # type: ignore[attr-defined]
            for name, part in module.named_modules():
                if isinstance(part, torch.nn.Linear):
                    squares.hook(f"model.layers.{index}.{name}", part)
            windows = torch.from_numpy(states[_STATES])
            for numbers in network.groups([0] * len(windows)):
                hidden = windows[numbers].to(network.device).requires_grad_()
                out = layer.several(hidden, numbers)  # type: ignore[attr-defined]
                gradient = torch.from_numpy(back["gradient"][numbers]).to(network.device)
                given, theirs = shared.given(numbers[0])
                torch.autograd.backward([out, *given], [gradient, *theirs])
                shared.collect()
                if further is not None:
                    further.collect(numbers[0])
                gradients += list(hidden.grad.cpu().numpy())
        arrays = {"gradient": np.stack(gradients)} | shared.arrays(_SHARED)
        if further is not None:
            embedded = [further.embedded[n].cpu().numpy() for n in range(len(self._ids))]
            arrays[_EMBEDDED] = np.stack(embedded)
        return self._handed_on(index, squares, arrays)

    def _per_layer(self, squares: _Squares, back: Mapping[str, F32]) -> _PerLayerGradients | None:
        scale = self.network.per_layer_scale()
        if scale is None:
            return None
        torch, _ = torch_modules()
        further = _PerLayerGradients(squares, scale)
        if _EMBEDDED in back:
            whole = torch.from_numpy(back[_EMBEDDED]).to(self.network.device)
            further.embedded = dict(enumerate(whole))
        return further

    def _collected(self, back: Mapping[str, F32]) -> dict[str, F32]:
        """The sums of all layers, and of the embedding."""
        torch, _ = torch_modules()
        network, of_embedding = self.network, _Squares()
        for number, gradient in enumerate(torch.from_numpy(back["gradient"])):
            total = network.embedding_gradient(number, gradient.to(network.device))
            if _EMBEDDED in back:
                total = total + torch.from_numpy(back[_EMBEDDED][number]).to(network.device)
            of_embedding.add(EMBEDDING, total, network.embedding_scale() ** 2)
        sums = of_embedding.arrays()
        for index in range(network.num_layers + 1):
            part = self._kept.read(f"sums-{index:05}")
            assert part is not None
            sums |= part
        for name, whole in ((TABLE, LAYER_EMBEDDING), (PROJECTION, PROJECTION)):
            parts = [sums.pop(f"{name}.{i}", None) for i in range(network.num_layers)]
            if (known := [part for part in parts if part is not None]) and len(known) == len(parts):
                sums[whole] = np.concatenate(known)
        return sums

    def _handed_on(self, index: int, squares: _Squares, arrays: dict[str, F32]) -> dict[str, F32]:
        """Save what a layer leaves, its sums first; its hidden states are not needed any more."""
        self._kept.save(f"sums-{index:05}", squares.arrays())
        self._kept.save("gradient", arrays | {"layer": np.array(index)})
        self._kept.path(self._states(index)).unlink(missing_ok=True)
        return arrays

    @staticmethod
    def _states(index: int) -> str:
        return f"{_STATES}-{index:05}"


def _named(arrays: Mapping[str, F32], prefix: str) -> dict[str, F32]:
    return {
        name.removeprefix(prefix): values
        for name, values in arrays.items()
        if name.startswith(prefix)
    }

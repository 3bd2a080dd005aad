"""The pass over the layers of two networks side by side: the original, and the artefact.

Both run the same text. Before a matrix is reached, those before it have their new values already,
so its inputs are what the finished artefact will give it. One layer of each network is in memory;
after each, its rows and the hidden states are saved, so that an interrupted pass goes on there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from kanna import _native, encodings, families
from kanna._util.progress import Progress, remark
from kanna.calibration.devices import CPU, torch_modules, within_memory
from kanna.calibration.network import Network
from kanna.calibration.network_weights import values
from kanna.calibration.shared_states import SharedStates
from kanna.calibration.sites import is_stack
from kanna.calibration.statistics import Site, Statistics
from kanna.families import gguf_view, hf_view
from kanna.families.views import Computed
from kanna.formats.safetensors import KeyedArrays
from kanna.model import F32, U8, Model, Tensor, num_rows
from kanna.optimization.correction.device_products import input_products
from kanna.optimization.correction.pass_text import PassText
from kanna.optimization.correction.products import InputProducts, corrected
from kanna.optimization.correction.rounding import LayerRounding

T = TypeVar("T")

_STATES = "states"


def _files(index: int) -> tuple[str, str]:
    """Where the rows of a layer are kept: corrected, and with learned codes."""
    return f"layer-{index:05}", f"learned-{index:05}"


class _ReachedSiteError(Exception):
    """The inputs of a site are there: the rest of the layer need not run."""


@dataclass(slots=True)
class _Ear:
    """Listens to one layer: the inputs of one module, and what another one gives."""

    module: Any
    output_of: Any = None
    inputs: Any = None
    output: Any = None

    def hear(self, layer: Any, hidden: Any, number: int) -> Any:
        """What goes into the module for one window, [tokens, columns]."""

        def reached(_module: Any, given: Any) -> None:
            self.inputs = given[0].detach().reshape(-1, given[0].shape[-1])
            raise _ReachedSiteError

        def left(_module: Any, _given: Any, out: Any) -> None:
            self.output = out.detach().reshape(-1, out.shape[-1])

        hooks = [self.module.register_forward_pre_hook(reached)]
        if self.output_of is not None:
            hooks.append(self.output_of.register_forward_hook(left))
        try:
            with suppress(_ReachedSiteError):
                layer(hidden, number)
        finally:
            for hook in hooks:
                hook.remove()
        return self.inputs


class CorrectionPass:
    """The pass over the windows of a text; `run` gives the rows that changed.

    Attributes:
        text: What both run.
        changed: Rows that have new values, by tensor.
        corrected: The same as they were before codes were learned.
        learned: Layers whose codes were learned, and are closer for it.
        device: Where both networks run, from the beginning.
        remarks: What was done where the memory of that did not suffice.
    """

    def __init__(
        self,
        model: Model,
        artefact: Model,
        statistics: Statistics,
        text: PassText,
        folder: Path,
        key: str,
        *,
        device: str | None,
        threads: int,
    ) -> None:
        """Prepare it.

        Args:
            model: The original.
            artefact: The model as the artefact's tensors decode.
            statistics: Of the original's inputs: sites and their shrinkage.
            text: What both run.
            folder: A folder of its own, where an interrupted run finds what was done.
            key: Hash of what the rows depend on; files of another are not used.
            device: cpu, cuda or mps; None: an accelerator when there is one.
            threads: Threads of our own kernels.
        """
        self._exact, self._given = (
            Network(one, device, SharedStates(folder / name))
            for one, name in ((model, "exact"), (artefact, "given"))
        )
        self._statistics, self.text, self._threads = statistics, text, threads
        self.device = self._exact.device
        self._folder, self._kept = folder, KeyedArrays(folder, f"{key} {self.device}")
        self.remarks: list[str] = []
        self.changed: dict[str, U8] = {}
        self.corrected: dict[str, U8] = {}
        self.learned = 0

    def run(self, progress: Progress) -> dict[str, U8]:
        """New encoded rows by tensor, uint8 [rows, row bytes]."""
        torch, _ = torch_modules()
        self._folder.mkdir(parents=True, exist_ok=True)
        layers = self._exact.num_layers
        progress.start("correct", layers, "layers")

        def run(work: Callable[[], T], where: str) -> T:
            return within_memory(work, lambda: self._lighten(where, progress))

        exact = run(partial(self._exact.embed, self.text.ids), "the embedding")
        given = run(partial(self._given.embed, self.text.ids), "the embedding")
        done = 0
        if (saved := self._kept.read(_STATES)) is not None:
            exact, given = torch.from_numpy(saved["exact"]), torch.from_numpy(saved["given"])
            done, self.learned = (int(saved[name].item()) for name in ("done", "learned"))
            for index in range(done):
                self._take(*(self._kept.read(name) or {} for name in _files(index)))
            progress.advance(done)
        for index in range(done, layers):
            with torch.no_grad():
                work = partial(self._layer, index, exact, given)
                exact, given, *rows = run(work, f"layer {index}")
            self._take(*rows)
            for name, of_step in zip(_files(index), rows, strict=True):
                self._kept.save(name, of_step)
            states = {"exact": exact.numpy(), "given": given.numpy()}
            counts = {"done": np.array(index + 1), "learned": np.array(self.learned)}
            self._kept.save(_STATES, states | counts)
            progress.advance(1, f"layer {index}")
        progress.finish()
        return self.changed

    def _take(self, corrected: dict[str, U8], closer: dict[str, U8]) -> None:
        self.corrected |= corrected
        self.changed |= corrected | closer

    def _lighten(self, where: str, progress: Progress) -> bool:
        """Go on on the CPU; False where that is done already."""
        if self._exact.device == CPU:
            return False
        text = f"the memory of {self._exact.device} did not suffice to correct {where}"
        self.remarks.append(f"{text}: on the CPU from there on")
        for network in (self._exact, self._given):
            network.move(CPU)
        remark(progress, self.remarks[-1])
        return True

    def clear(self) -> None:
        """Remove what is only needed to go on with an interrupted run."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _layer(
        self, index: int, exact: Any, given: Any
    ) -> tuple[Any, Any, dict[str, U8], dict[str, U8]]:
        """Hidden states behind the layers; rows that were corrected, and those that learned."""
        torch, _ = torch_modules()
        rows: dict[str, U8] = {}
        with self._exact.layer(index) as ours, self._given.layer(index) as theirs:
            fitted = (states[: self.text.summed] for states in (exact, given))
            pair = _LayerPair(self, index, ours, theirs, *fitted)
            for tensors in pair.sites():
                rows |= pair.correct(tensors)

            def behind(layer: Any, states: Any) -> Any:
                return torch.stack([layer(window, n).cpu() for n, window in enumerate(states)])

            wanted = behind(ours, exact)
            closer = pair.learned(rows, given, wanted)
            self.learned += bool(closer)
            return wanted, behind(theirs, given), rows, closer

    def site(self, name: str) -> Site | None:
        """Where a tensor reads."""
        site = self._statistics.site_of.get(name)
        return self._statistics.sites[site] if site is not None else None

    def stored(self, name: str) -> Tensor | None:
        """The artefact's tensor, where its values can be chosen again and are not exact."""
        tensor, site = self._given.model.tensors[name], self.site(name)
        if site is None or is_stack(name) or site.block != site.columns:
            return None
        encoding = encodings.get(tensor.dtype)
        known = encoding.name in _native.grids() and encoding.encoder is not None
        if not known or families.column_order(self._exact.model, name) is not None:
            return None
        return tensor if tensor.raw(0, 1) is not None else None

    @property
    def models(self) -> tuple[Model, Network]:
        """The original, and its network."""
        return self._exact.model, self._exact

    @property
    def computes_on(self) -> str:
        """The device that both networks run on now."""
        return self._exact.device

    @property
    def threads(self) -> int:
        """Threads of our own kernels."""
        return self._threads


class _LayerPair:
    """A layer of the original and the same of the artefact, with hidden states before both."""

    def __init__(
        self, run: CorrectionPass, index: int, ours: Any, theirs: Any, exact: Any, given: Any
    ) -> None:
        self._run, self._ours, self._theirs = run, ours, theirs
        self._exact, self._given = exact, given
        self._model, network = run.models
        readers = [list(network.readers(index, layer.module)) for layer in (ours, theirs)]
        self._modules = {
            name: (one, other)
            for (name, expert, one), (_, _, other) in zip(*readers, strict=True)
            if expert is None and self._whole(network, name, one)
        }

    def _whole(self, network: Network, name: str, module: Any) -> bool:
        """Whether a module holds one matrix of the GGUF and no more."""
        shape = self._model.tensors[name].shape
        return len(shape) == 2 and tuple(getattr(module, "weight", np.empty(0)).shape) == shape

    def sites(self) -> list[list[str]]:
        """Tensors that are chosen again, by site, in the order in which the layer reaches them."""
        order: list[str] = []

        def reached(name: str, _module: Any, _given: Any) -> None:
            order.append(name)

        hooks = [
            module.register_forward_pre_hook(partial(reached, name))
            for name, (module, _) in self._modules.items()
        ]
        self._ours(self._exact[0], 0)
        for hook in hooks:
            hook.remove()
        sites: dict[int, list[str]] = {}
        for name in dict.fromkeys(order):
            if self._run.stored(name) is not None:
                sites.setdefault(id(self._run.site(name)), []).append(name)
        return list(sites.values())

    @cached_property
    def _adds(self) -> tuple[str, str] | None:
        """Names of the two matrices whose products alone are added to the hidden states.

        None where a layer does more to them, such as norms behind a matrix.
        """
        torch, _ = torch_modules()
        names = [n for n in self._modules if n.endswith(("attn_output.weight", "ffn_down.weight"))]
        if len(names) != 2:
            return None
        total: list[Any] = []

        def left(_module: Any, _given: Any, out: Any) -> None:
            total.append(out.reshape(-1, out.shape[-1]))

        hooks = [self._modules[name][0].register_forward_hook(left) for name in names]
        after = self._ours(self._exact[0], 0)
        for hook in hooks:
            hook.remove()
        if total[0].shape != after.shape:
            return None  # there are several streams of hidden states
        sum_of = self._exact[0].to(after.device) + total[0] + total[1]
        close = torch.allclose(sum_of, after, rtol=1e-3, atol=1e-4 * float(after.abs().max()))
        first, second = sorted(names, key=lambda name: "ffn" in name)
        return (first, second) if close else None

    def correct(self, tensors: list[str]) -> dict[str, U8]:
        """New rows of the tensors that read at one site; the artefact's layer takes them over."""
        products, run = self._products(tensors[0]), self._run
        site, rows = run.site(tensors[0]), dict[str, U8]()
        assert site is not None
        for name in tensors:
            tensor = run.stored(name)
            assert tensor is not None
            before = tensor.raw(0, num_rows(tensor))
            assert before is not None
            weight, encoding = values(self._model.tensors[name]), encodings.get(tensor.dtype)
            if np.array_equal(encoding.decode(before, weight.shape[1]), weight):
                continue
            residual = products.off()
            if residual is not None:
                residual = self._ordered(gguf_view, name, residual)
            rows[name], _ = corrected(
                encoding,
                weight,
                before,
                products,
                residual=residual,
                shrink=site.shrink,
                threads=run.threads,
            )
            self._take_over(name, encoding.decode(rows[name], weight.shape[1]))
        return rows

    def learned(self, rows: dict[str, U8], given: Any, wanted: Any) -> dict[str, U8]:
        """Rows with codes that bring the artefact's layer closer; it takes them over.

        Args:
            rows: What was chosen before, by tensor.
            given: Hidden states before the layer, of the text that judges, too.
            wanted: Those behind the original's.
        """
        rounding = LayerRounding(
            self._theirs, given, wanted, learned=self._run.text.learned, ordered=self._ordered
        )
        for name in (name for names in self.sites() for name in names):
            tensor = self._run.stored(name)
            assert tensor is not None
            data = rows.get(name)
            data = tensor.raw(0, num_rows(tensor)) if data is None else data
            assert data is not None
            exact, encoding = values(self._model.tensors[name]), encodings.get(tensor.dtype)
            if not np.array_equal(encoding.decode(data, exact.shape[1]), exact):
                rounding.add(name, encoding, data, exact, self._modules[name][1].weight)
        return rounding.run()

    def _products(self, name: str) -> InputProducts:
        ours, theirs = self._modules[name]
        adds = self._adds
        follows = None
        if adds is not None and name == adds[1]:
            follows = self._modules[adds[0]]
        ears = [
            _Ear(module, follows[side] if follows else None)
            for side, module in enumerate((ours, theirs))
        ]
        products = input_products(self._run.computes_on)
        for number, (exact, given) in enumerate(zip(self._exact, self._given, strict=True)):
            heard = [
                ear.hear(layer, hidden, number)
                for ear, layer, hidden in zip(
                    ears, (self._ours, self._theirs), (exact, given), strict=True
                )
            ]
            off = None
            if adds is not None and name in adds:
                off = (exact - given).to(heard[0].device)
                if follows is not None:
                    off = off + (ears[0].output - ears[1].output)
            products.add(heard[0], heard[1], off)
        return products

    def _take_over(self, name: str, rows: F32) -> None:
        torch, _ = torch_modules()
        weight = self._modules[name][1].weight
        weight.copy_(torch.from_numpy(self._ordered(hf_view, name, rows)).to(weight.device))

    def _ordered(self, view: Any, name: str, rows: Any) -> Any:
        """Rows of a matrix in the other format's order."""
        return np.array(view(self._model, name, Computed(name, rows)).rows(0, len(rows)))

"""What is heard of a layer while text runs through it: the inputs of each of its sites."""

from __future__ import annotations

from typing import Any

from kanna import families
from kanna.calibration.devices import torch_modules
from kanna.calibration.network import Network
from kanna.calibration.second_moments import ExpertSums, InputSums, block_of
from kanna.calibration.sites import own_reads, site_of


class Listening:
    """Sums of the inputs of a layer's sites.

    Attributes:
        held: Whether the text is held out.
        sums: By site.
    """

    def __init__(self, network: Network, widest: int) -> None:
        self._network, self._widest, self.held = network, widest, False
        self.sums: dict[str, InputSums] = {}
        self._own_reads = own_reads(network.model)

    def hook(self, index: int, module: Any) -> None:
        """Listen once at every site of layer `index`, and to every expert where it has some."""
        hooked: set[str] = set()
        readers = list(self._network.readers(index, module))
        # What all experts read is heard with where it goes.
        readers.sort(key=lambda reader: not getattr(reader[2], "is_experts", False))
        for tensor, expert, part in readers:
            site = site_of(tensor, tied=False, own_reads=self._own_reads)
            if site is None or site in hooked:
                continue
            if expert is None:
                hooked.add(site)
                routed = getattr(part, "is_experts", False)
                hook = self._routed(site, tensor) if routed else self._plain(site, tensor)
            else:
                hook = self._expert(site, tensor, expert)
            part.register_forward_pre_hook(hook)

    def _plain(self, site: str, tensor: str) -> Any:
        order = families.column_order(self._network.model, tensor)

        def hook(_module: Any, inputs: Any) -> None:
            x = inputs[0].reshape(-1, inputs[0].shape[-1])
            if order is not None:
                x = x[:, order]
            if site not in self.sums:
                block = block_of(x.shape[1], self._widest)
                self.sums[site] = InputSums(x.shape[1], block, self._network.device)
            self.sums[site].add(x, self.held)

        return hook

    def _routed(self, site: str, tensor: str) -> Any:
        """What all experts of a layer read, with the choice of the router."""

        def hook(module: Any, inputs: Any) -> None:
            x, chosen = module.routed(*inputs)
            self._experts(site, tensor).route(x, chosen, self.held)

        return hook

    def _expert(self, site: str, tensor: str, expert: int) -> Any:
        """What one matrix of a stack reads."""
        torch, _ = torch_modules()

        def hook(_module: Any, inputs: Any) -> None:
            chosen = torch.full((len(inputs[0]), 1), expert)
            self._experts(site, tensor).route(inputs[0], chosen, self.held)

        return hook

    def _experts(self, site: str, tensor: str) -> ExpertSums:
        sums = self.sums.get(site)
        if not isinstance(sums, ExpertSums):
            experts, _, columns = self._network.model.tensors[tensor].shape
            sums = ExpertSums(columns, self._widest, experts, self._network.device)
            self.sums[site] = sums
        return sums

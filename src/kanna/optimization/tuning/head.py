"""Divergence of what a head gives from what the original's gives, some rows of both at a time.

Neither head is in memory as a whole: all rows give their logits first, which are what the gradient
needs, and then they are read again.

Shapes: T tokens, V vocabulary, H hidden.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kanna.calibration.devices import torch_modules
from kanna.calibration.network import Network
from kanna.calibration.network_weights import values
from kanna.model import Tensor, columns, num_rows
from kanna.optimization.tuning.moved_blocks import BlockMoves

LOGITS = 1 << 26
"""Logits of the original, and of the artefact, in memory at a time."""
_WEIGHTS = 1 << 22
"""Weights of a head in memory at a time."""
_BIAS = "lm_head.bias"


class HeadDivergence:
    """Of one text, from hidden states behind the last norm.

    Attributes:
        gradients: Of θ and δ of the head, [V, B], once something learned; None before.
    """

    def __init__(self, network: Network, teacher: Tensor, moves: BlockMoves | None) -> None:
        """Look at both heads.

        Args:
            network: That of the artefact: its head, bias, divisor (Granite) and cap (Gemma).
            teacher: The original's head, [V, H]; no bias is quantized or tuned, so both have one.
            moves: What moves the blocks of the artefact's head; None: nothing does.
        """
        torch, _ = torch_modules()
        self._device, self._teacher, self._own = network.device, teacher, network.weights.head
        self._moves = moves
        settings = network.skeleton.config
        self._cap = getattr(settings, "final_logit_softcapping", None)
        self._divisor = float(getattr(settings, "logits_scaling", 1.0))
        bias = network.weights.tensors.get(_BIAS)
        self._bias = None if bias is None else torch.from_numpy(values(bias)).to(self._device)
        self.gradients: list[Any] | None = None

    def of(self, hidden: Any, state: Any, *, learn: bool, logits: int) -> tuple[float, Any]:
        """Mean KL divergence in nats per token, and the gradient of `hidden` where it learns.

        Args:
            hidden: What the artefact's head reads, [T, H].
            state: What the original's reads, [T, H].
            learn: Whether gradients are taken.
            logits: How many of each are in memory at a time.
        """
        torch, _ = torch_modules()
        with torch.no_grad():
            return self._of(torch, hidden, state, learn, logits)

    def _of(
        self, torch: Any, hidden: Any, state: Any, learn: bool, logits: int
    ) -> tuple[float, Any]:
        count, step = len(hidden), max(1, logits // num_rows(self._teacher))
        total, parts = 0.0, list[Any]()
        for at in range(0, count, step):
            rows = slice(at, at + step)
            theirs = self._logits(state[rows].to(self._device), self._teacher, None)
            ours = self._logits(hidden[rows], self._own, self._moves)
            slope = None
            if learn and self._cap is not None:
                slope = 1 - (ours / self._cap).square()
            for one in (theirs, ours):
                one -= torch.logsumexp(one, -1, keepdim=True)
            chances = theirs.exp()
            total += float((theirs.sub_(ours) * chances).sum())
            if learn:
                wrong = ours.exp_().sub_(chances).div_(count * self._divisor)
                wrong = wrong if slope is None else wrong.mul_(slope)
                parts.append(self._back(hidden[rows], wrong))
        return total / count, torch.cat(parts) if learn else None

    def _logits(self, states: Any, head: Tensor, moves: BlockMoves | None) -> Any:
        torch, _ = torch_modules()
        out = states.new_empty(len(states), num_rows(head))
        for rows, weight in self._pieces(head):
            weight = weight if moves is None else moves.of_rows(rows).applied(weight)
            torch.matmul(states, weight.T, out=out[:, rows])
        if self._bias is not None:
            out += self._bias
        out /= self._divisor
        return out if self._cap is None else out.div_(self._cap).tanh_().mul_(self._cap)

    def _back(self, hidden: Any, wrong: Any) -> Any:
        """The gradient of `hidden`, from that of the products with the artefact's head."""
        torch, _ = torch_modules()
        back = torch.zeros_like(hidden)
        for rows, weight in self._pieces(self._own):
            given = wrong[:, rows]
            if self._moves is None:
                back += given @ weight
                continue
            moves = self._moves.of_rows(rows)
            shifted = moves.shifted(weight)
            back += given @ moves.applied(weight)
            self._add(rows, moves.gradients(shifted, given.T @ hidden))
        return back

    def _add(self, rows: slice, gradients: tuple[Any, Any]) -> None:
        assert self._moves is not None
        torch, _ = torch_modules()
        if self.gradients is None:
            parts = (self._moves.theta, self._moves.delta)
            self.gradients = [torch.zeros_like(part) for part in parts if part is not None]
        for whole, part in zip(self.gradients, gradients, strict=False):
            whole[rows] += part

    def _pieces(self, head: Tensor) -> Iterator[tuple[slice, Any]]:
        """Rows of a head in float32, and which they are."""
        torch, _ = torch_modules()
        step, count = max(1, _WEIGHTS // columns(head)), num_rows(head)
        for start in range(0, count, step):
            rows = slice(start, min(start + step, count))
            weight = torch.from_numpy(head.rows(rows.start, rows.stop))
            yield rows, weight.to(self._device)

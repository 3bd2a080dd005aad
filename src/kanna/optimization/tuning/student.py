"""The network of an artefact that learns, with codes fixed and one layer in memory at a time.

Every block of a matrix has a factor 1 + θ and, where its encoding has a bias, is moved by δ steps
before that; every gain of a norm has an offset θ times its usual size. All θ and δ start at 0. On
the way forward the states of one window before every layer are kept; on the way back each layer
runs again from its own, hands on the gradient (arXiv:1604.06174), and takes its step.

Shapes: T tokens, H hidden, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kanna.calibration.devices import torch_modules
from kanna.calibration.final_states import final_states
from kanna.calibration.network import Network
from kanna.calibration.shared_states import SharedGradients, SharedStates
from kanna.model import Model, Tensor
from kanna.optimization.tuning.head import LOGITS, HeadDivergence
from kanna.optimization.tuning.learnable import below, learnables, step_sizes, unit_of
from kanna.optimization.tuning.learned_values import LearnedValues, Pace
from kanna.optimization.tuning.moved_blocks import BlockMoves, free, free_gain
from kanna.plan.tuning import OFFSET

_HEADS = ("output.weight", "token_embd.weight")


class _PerLayerTotal:
    """What flows back through the embeddings that each layer has of its own; see LayerGradients."""

    def __init__(self) -> None:
        self.total: Any = 0.0
        self._leaf: Any = None

    def start(self, rows: Any) -> Any:
        """Scaled embeddings of the window's tokens, as the start of a graph."""
        self._leaf = rows.detach().requires_grad_()
        return self._leaf

    def watch(self, name: str, layer: int, values: Any) -> None:
        """Neither the second table nor the projection learns."""

    def collect(self) -> None:
        """Add what came back through a layer."""
        self.total = self.total + self._leaf.grad


class Student:
    """The artefact `model`, whose tensors decode to what the file holds.

    Attributes:
        network: Its network.
        values: What learns.
        logits: So many are in memory at a time.
    """

    logits = LOGITS

    def __init__(
        self,
        model: Model,
        device: str | None,
        folder: Path,
        *,
        learns: bool = True,
        norms: bool = True,
    ) -> None:
        """Look at the artefact.

        Args:
            model: The artefact.
            device: cpu, cuda or mps; None: an accelerator when there is one.
            folder: Where what learns is kept.
            learns: Whether anything does.
            norms: Whether norms do, too.
        """
        self.model = model
        self.network = Network(model, device, on_fill=self._free)
        every = learnables(self.network, norms=norms) if learns else []
        self.values = LearnedValues(model, every, folder)
        self._paths = {one.path: one for one in every}
        self._leaves = dict[str, Any]()
        self._head = next(name for name in _HEADS if name in model.tensors)
        self.network.embedding.register_forward_hook(self._embedded)

    @property
    def device(self) -> str:
        """Where it computes."""
        return self.network.device

    def hidden(self, ids: Any) -> Any:
        """Hidden states that the head reads, [windows, T, H], of ids [windows, T]."""
        self.network.shared = SharedStates()
        return final_states(self.network, np.asarray(ids, np.int32))

    def divergence(self, hidden: Any, state: Any, head: Tensor, *, first: int = 0) -> float:
        """Mean KL divergence in nats from the original over one window, from token `first`.

        Args:
            hidden: What the head reads, [T, H].
            state: What the original's reads, [T, H].
            head: That of the original, [V, H].
            first: Tokens before it are not compared.
        """
        compared = HeadDivergence(self.network, head, self._moves(self._head))
        given = hidden[first:].to(self.device)
        return compared.of(given, state[first:], learn=False, logits=self.logits)[0]

    def learn(self, ids: Any, state: Any, head: Tensor, pace: Pace) -> float:
        """One step on one window; returns its mean KL divergence in nats before it.

        Args:
            ids: The window, [T].
            state: What the original's head reads, [T, H].
            head: That of the original, [V, H].
            pace: Of this step.
        """
        network, states = self.network, self._forward(ids)
        compared = HeadDivergence(network, head, self._moves(self._head))
        norm, before = network.norm(), states.pop().requires_grad_()
        final = norm(before)
        total, gradient = compared.of(final.detach(), state, learn=True, logits=self.logits)
        final.backward(gradient)
        self._take_step(pace)
        tied = self._head == self._embedding
        if not tied:
            self._step_rows(self._head, compared.gradients, pace)
        gradient, further = self._backward(states, before.grad, pace)
        if self._embedding is not None:
            into = network.embedding_gradient(0, gradient) + further
            rows = self._embedding_gradients(ids, into)
            if tied and (of_head := compared.gradients) is not None:
                rows = [one + other for one, other in zip(rows, of_head, strict=True)]
            self._step_rows(self._embedding, rows, pace)
        return total

    def _forward(self, ids: Any) -> list[Any]:
        """Hidden states before each layer, and behind the last, of one window."""
        torch, _ = torch_modules()
        network = self.network
        network.shared = SharedStates()
        states = [network.embed(np.asarray(ids, np.int32)[None])[0].to(self.device)]
        with torch.no_grad():
            for index in range(network.num_layers):
                with network.layer(index) as layer:
                    states.append(layer(states[-1], 0))
        return states

    def _backward(self, states: list[Any], gradient: Any, pace: Pace) -> tuple[Any, Any]:
        """Gradients of what enters the first layer, and of embeddings that layers read themselves.

        Args:
            states: Hidden states before each layer.
            gradient: Of what leaves the last.
            pace: Of the step that each layer takes.
        """
        network = self.network
        network.shared = shared = SharedGradients(network.shared)
        further = None if network.per_layer_scale() is None else _PerLayerTotal()
        for index in range(network.num_layers - 1, -1, -1):
            gradient = self._back_through(index, states.pop(), gradient, shared, further)
            self._take_step(pace)
        return gradient, 0.0 if further is None else further.total

    def _back_through(
        self,
        index: int,
        state: Any,
        gradient: Any,
        shared: SharedGradients,
        further: _PerLayerTotal | None,
    ) -> Any:
        """The gradient of what enters a layer, from that of what leaves it."""
        torch, _ = torch_modules()
        with self.network.layer(index, further) as layer:
            before = state.requires_grad_()
            out = layer(before, 0)
            given, theirs = shared.given(0)
            torch.autograd.backward([out, *given], [gradient, *theirs])
        shared.collect()
        if further is not None:
            further.collect()
        return before.grad

    def _take_step(self, pace: Pace) -> None:
        """Let what was free in a module learn by its gradients."""
        for key, leaf in self._leaves.items():
            if leaf.grad is not None:
                self.values.step(key, leaf.grad, pace)
        self._leaves.clear()

    def _step_rows(self, name: str, gradients: list[Any] | None, pace: Pace) -> None:
        """The same of a head or an embedding, by gradients of its θ and, if it has some, δ."""
        for key, gradient in zip((name, name + OFFSET), gradients or [], strict=False):
            self.values.step(key, gradient, pace)

    def _leaf(self, key: str) -> Any:
        self._leaves[key] = self.values.leaf(key, self.device)
        return self._leaves[key]

    def _moves(self, name: str) -> BlockMoves | None:
        """What moves the blocks of a matrix, as the start of a graph; None where nothing does."""
        torch, _ = torch_modules()
        if name not in self.values.of:
            return None
        if not self.values.of[name].shifts:
            return BlockMoves(self._leaf(name))
        steps = torch.from_numpy(step_sizes(self.model, name)).to(self.device)
        return BlockMoves(self._leaf(name), self._leaf(name + OFFSET), steps)

    def _free(self, module: Any, prefix: str) -> None:
        """Let a module that just got its weights have what learns of it."""
        held = list(below(self._paths, prefix))
        if held:  # what was free before is in memory no more
            self._leaves.clear()
        for path, one in held:
            part = module.get_submodule(path)
            if one.norm:
                free_gain(part, self._leaf(one.name), unit_of(self.model, one.name))
            elif (moves := self._moves(one.name)) is not None:
                free(part, moves)

    @property
    def _embedding(self) -> str | None:
        """The name of the embedding, if it learns."""
        one = self._paths.get(self.network.table_path)
        return None if one is None else one.name

    def _embedded(self, _module: Any, given: Any, rows: Any) -> Any:
        """Rows that leave the embedding, with their blocks moved."""
        torch, _ = torch_modules()
        if self._embedding is None or (moves := self._moves(self._embedding)) is None:
            return rows
        numbers = torch.from_numpy(self.network.vocabulary_rows.astype(np.int64)).to(self.device)
        with torch.no_grad():
            at = moves.of_rows(numbers[given[0]])
            return at.applied(rows, self.network.embedding_scale())

    def _embedding_gradients(self, ids: Any, gradient: Any) -> list[Any]:
        """Gradients of θ and δ of the embedding, from that of its rows for a window, [T, H]."""
        torch, _ = torch_modules()
        assert self._embedding is not None
        moves = self._moves(self._embedding)
        assert moves is not None
        scale = self.network.embedding_scale()
        rows = self.network.embedding.weight[self.network.places(0)] * scale
        at = moves.of_rows(torch.from_numpy(np.asarray(ids, np.int64)).to(self.device))
        at.applied(rows, scale).backward(gradient)
        return [leaf.grad for leaf in (moves.theta, moves.delta) if leaf is not None]

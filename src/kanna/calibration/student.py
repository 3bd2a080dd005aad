"""Distillation of an artefact in torch: codes are fixed, scales and norms are trained.

Every block of a matrix has a factor 1 + θ and, where its encoding has a bias, is moved by δ steps
before that; every gain of a norm has an offset θ times its usual size. All θ and δ start at 0. The
teacher is run one layer at a time; only its last hidden states and its head stay in memory.

Shapes: T tokens, V vocabulary, O rows, I columns, B factors of a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from kanna import families
from kanna.calibration.devices import torch_modules
from kanna.calibration.network import Network
from kanna.calibration.network_weights import values
from kanna.calibration.sites import is_stack
from kanna.families import gguf_view, hf_view
from kanna.families.views import Computed
from kanna.model import F32, Model, num_weights

LOGITS = 1 << 24
"""Logits of the teacher, and of the student, in memory at a time."""


def bytes_needed(model: Model, tokens: int, window: int) -> int:
    """Memory of a distillation.

    The weights and a head in float32, the trained values of the blocks with their moments, the
    teacher's hidden states, activations of a window, and the largest matrix three times in the
    backward pass.
    """
    table = model.tensors["token_embd.weight"].shape
    hidden, layers = int(table[1]), model.whole("{arch}.block_count", least=1)
    feed = model.largest("{arch}.feed_forward_length", 4 * hidden)
    activations = 4 * window * layers * (16 * hidden + 6 * feed)
    largest = max(num_weights(t) for t in model.tensors.values())
    # Six bytes each: a factor and an offset of 32 weights are in six arrays.
    weights = 6 * model.num_parameters
    return (
        weights
        + 4 * table[0] * hidden
        + 12 * largest
        + 4 * tokens * hidden
        + activations
        + 8 * 4 * LOGITS
    )


class Teacher:
    """The original's predictions on some windows.

    Attributes:
        states: Hidden states of each window, f32 [T, hidden].
        head: The head that reads them, f32 [V, hidden].
    """

    def __init__(self, model: Model, ids: Any, device: str | None) -> None:
        torch, _ = torch_modules()
        network = Network(model, device)
        states = list(network.embed(ids))
        with torch.no_grad():
            for index in range(network.num_layers):
                with network.layer(index) as layer:
                    states = [layer(h, number).cpu() for number, h in enumerate(states)]
            norm = network.norm()
            self.states = [norm(h.to(network.device)).cpu() for h in states]
        self.head = torch.from_numpy(values(network.weights.head)).to(network.device)


class Student:
    """The artefact `model` (its tensors decode to what the file holds).

    Attributes:
        blocks: Factors of each row by GGUF name of the matrices that may be scaled.
        steps: Size of a step of each block, f32 [O, B], by GGUF name of the matrices whose blocks
            may be moved.
        norms: Whether norms are free, too.
        theta: What is trained, by GGUF name: θ [O, B] for matrices, [values] for norms.
        delta: The same of δ [O, B].
        logits: So many are in memory at a time.
    """

    logits = LOGITS

    def __init__(
        self,
        model: Model,
        blocks: Mapping[str, int],
        device: str | None,
        steps: Mapping[str, F32] | None = None,
        norms: bool = True,
    ) -> None:
        torch, _ = torch_modules()
        network = Network(model, device)
        self.model, self.device = model, network.device
        self.whole = network.whole().requires_grad_(False)
        self._parts = network.weights.parts
        self.theta: dict[str, Any] = {}
        self.delta: dict[str, Any] = {}
        self._steps: dict[str, Any] = {}
        for name, sizes in (steps or {}).items():
            if name not in blocks or families.column_order(model, name) is not None:
                continue
            ordered = hf_view(model, name, Computed(name, sizes)).rows(0, len(sizes))
            self._steps[name] = torch.from_numpy(np.array(ordered)).to(self.device)
        self._norms: list[tuple[Any, Any, float, str]] = []
        self._base: dict[str, F32] = {}
        self._unit: dict[str, float] = {}
        self.cap = getattr(self.whole.config, "final_logit_softcapping", None)
        self._divisor = float(getattr(self.whole.config, "logits_scaling", 1.0))
        tied = "output.weight" not in model.tensors
        self._head_name = "token_embd.weight" if tied else "output.weight"
        for path, module in list(self.whole.named_modules()):
            name = self._name(path)
            if name is None or name not in model.tensors:
                continue
            if isinstance(module, torch.nn.Embedding) and name in blocks:
                self._free(name, (module.weight.shape[0], blocks[name]))
                module.forward = _embedding(module, self._moves(name))
            elif _multiplies(module, torch) and name in blocks:
                self._free(name, (module.weight.shape[0], blocks[name]))
                if path != "lm_head":
                    module.forward = _linear(module, self._moves(name))
            elif (
                norms
                and type(module).__name__.endswith("Norm")
                and getattr(module, "weight", None) is not None
            ):
                self._norm(name, module)

    def _name(self, path: str) -> str | None:
        """GGUF name of a module's weight; None where it is not its own, or one of many."""
        if path == "lm_head" and self._head_name == "token_embd.weight":
            return None  # the embedding is the head
        parts = self._parts.get(f"{path}.weight", [])
        if len(parts) != 1 or is_stack(parts[0][0]):
            return None
        moved = families.column_order(self.model, parts[0][0]) is not None  # so are its blocks
        return None if moved else parts[0][0]

    def _free(self, name: str, shape: tuple[int, ...]) -> None:
        torch, _ = torch_modules()
        if name not in self.theta:
            self.theta[name] = torch.zeros(shape, device=self.device, requires_grad=True)
            if name in self._steps:
                self.delta[name] = torch.zeros(shape, device=self.device, requires_grad=True)

    def _moves(self, name: str) -> tuple[Any, Any, Any]:
        """θ, δ and the size of a step, the last two None for a matrix without biases."""
        return self.theta[name], self.delta.get(name), self._steps.get(name)

    def _norm(self, name: str, module: Any) -> None:
        stored, base = values(self.model.tensors[name]), module.weight.detach().clone()
        if stored.shape != tuple(base.shape) or np.ptp(stored - base.cpu().numpy()) > 1e-5:
            return  # more than an offset lies between the two: leave it alone
        self._free(name, tuple(base.shape))
        unit = float(np.abs(stored).mean()) or 1.0
        self._base[name], self._unit[name] = stored, unit
        del module.weight  # from here on a plain attribute, set before every pass
        self._norms.append((module, base, unit, name))

    def hidden(self, ids: Any) -> Any:
        """Hidden states the head reads, [T, hidden], of one window of ids [T]."""
        torch, _ = torch_modules()
        for module, base, unit, name in self._norms:
            module.weight = base + unit * self.theta[name]
        given = torch.from_numpy(np.asarray(ids, np.int64))[None].to(self.device)
        return self.whole.model(input_ids=given, use_cache=False).last_hidden_state[0]

    def divergence(
        self, ids: Any, state: Any, teacher: Any, *, learn: bool, first: int = 0
    ) -> float:
        """Mean KL divergence in nats from the teacher over one window, from token `first`.

        Args:
            ids: The window, [T].
            state: The teacher's hidden states [T, hidden].
            teacher: Its head [V, hidden].
            learn: Add its gradient.
            first: Tokens before it are not compared.
        """
        torch, _ = torch_modules()
        with torch.set_grad_enabled(learn):
            hidden = self.hidden(ids)
            cut = hidden.detach().requires_grad_(learn)
            count, total = len(cut) - first, 0.0
            step = max(1, self.logits // len(teacher))
            for at in range(first, len(cut), step):
                rows = slice(at, at + step)
                loss = self._loss(cut[rows], state[rows].to(self.device), teacher) / count
                if learn:
                    loss.backward()
                total += float(loss.detach())
            if learn:
                hidden.backward(cut.grad)
        return total

    def _loss(self, hidden: Any, state: Any, teacher: Any) -> Any:
        torch, _ = torch_modules()
        with torch.no_grad():
            target = torch.log_softmax(self._logits(state @ teacher.T), -1)
        weight, name = self.whole.lm_head.weight, self._head_name
        products = (
            _scale(hidden, weight, *self._moves(name)) if name in self.theta else hidden @ weight.T
        )
        predicted = torch.log_softmax(self._logits(products), -1)
        return (target.exp() * (target - predicted)).sum()

    def _logits(self, products: Any) -> Any:
        """Logits of the products with a head: its bias, Granite's divisor and Gemma's cap.

        No bias is quantized or tuned, so that of the teacher is the same.
        """
        torch, _ = torch_modules()
        bias = self.whole.lm_head.bias
        logits = products if bias is None else products + bias
        logits = logits / self._divisor
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)

    def scales(self) -> Iterator[tuple[str, F32]]:
        """θ of the matrices in the row order of GGUF, f32 [O, B]."""
        return self._rows(
            {name: theta for name, theta in self.theta.items() if name not in self._base}
        )

    def offsets(self) -> Iterator[tuple[str, F32]]:
        """The same of δ."""
        return self._rows(self.delta)

    def _rows(self, moves: Mapping[str, Any]) -> Iterator[tuple[str, F32]]:
        for name, theta in moves.items():
            inner = Computed(name, theta.detach().cpu().numpy().astype(np.float32))
            yield name, np.ascontiguousarray(gguf_view(self.model, name, inner).rows(0, len(theta)))

    def vectors(self) -> Iterator[tuple[str, F32]]:
        """The norms as GGUF stores them, f32 [values]."""
        for name, base in self._base.items():
            yield (
                name,
                base + np.float32(self._unit[name]) * self.theta[name].detach().cpu().numpy(),
            )

    @property
    def gains(self) -> set[str]:
        """Names of the norms that are free."""
        return set(self._base)


def _multiplies(module: Any, torch: Any) -> bool:
    """Whether a module gives a product with its weight and no more: routers may choose, too."""
    return isinstance(module, torch.nn.Linear) and type(module).forward is torch.nn.Linear.forward


def _scale(x: Any, weight: Any, theta: Any, delta: Any, steps: Any) -> Any:
    """Product of x and a weight whose blocks are moved by δ steps and then scaled by 1 + θ.

    The gradient of the whole matrix exists only while its backward pass runs.

    Args:
        x: Inputs [T, I].
        weight: The matrix [O, I].
        theta: θ of each block, [O, B].
        delta: δ of each block, [O, B], or None.
        steps: Size of a step of each block, [O, B], or None.

    Returns:
        [T, O].
    """
    torch, _ = torch_modules()

    class ScaledProduct(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, theta: Any, delta: Any) -> Any:
            ctx.save_for_backward(x, theta, delta)
            return x @ _times(_moved(weight, delta, steps), 1 + theta).T

        @staticmethod
        def backward(ctx: Any, given: Any) -> Any:
            x, theta, delta = ctx.saved_tensors
            moved, factor = _moved(weight, delta, steps), 1 + theta
            into_x = given @ _times(moved, factor)
            whole = (given.T @ x).view(*theta.shape, -1)
            into_theta = (whole * moved.view_as(whole)).sum(-1)
            into_delta = None if delta is None else whole.sum(-1) * steps * factor
            return into_x, into_theta, into_delta

    return ScaledProduct.apply(x, theta, delta)


def _times(weight: Any, factor: Any) -> Any:
    return (weight.view(*factor.shape, -1) * factor[..., None]).view(len(weight), -1)


def _moved(weight: Any, delta: Any, steps: Any) -> Any:
    if delta is None:
        return weight
    return (weight.view(*delta.shape, -1) + (delta * steps)[..., None]).view(len(weight), -1)


def _linear(module: Any, moves: tuple[Any, Any, Any]) -> Any:
    def forward(x: Any) -> Any:
        out = _scale(x.reshape(-1, x.shape[-1]), module.weight, *moves).reshape(*x.shape[:-1], -1)
        return out if module.bias is None else out + module.bias

    return forward


def _embedding(module: Any, moves: tuple[Any, Any, Any]) -> Any:
    plain, (theta, delta, steps) = module.forward, moves
    # Of Gemma: what `forward` gives is the rows times a constant, and so must be what is added to
    # them.
    times = float(getattr(module, "scalar_embed_scale", 1.0))

    def forward(ids: Any) -> Any:
        rows = plain(ids)
        factor = 1 + theta[ids]
        blocks = rows.reshape(*factor.shape, -1)
        if delta is not None:
            blocks = blocks + (times * delta[ids] * steps[ids])[..., None]
        return (blocks * factor[..., None]).reshape(rows.shape)

    return forward

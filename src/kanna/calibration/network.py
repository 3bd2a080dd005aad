"""The network in torch, one decoder layer in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from kanna import families
from kanna._util import extras
from kanna.calibration.experts import take_apart
from kanna.errors import KannaError, MissingError
from kanna.model import F32, Model, Tensor, num_rows

_BLOCK = 1 << 22
"""Weights read at a time."""


def torch_modules() -> tuple[Any, Any]:
    """PyTorch and transformers without their warnings. Raises MissingError."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise MissingError(
            f"calibration needs torch and transformers: {error}", todo=extras.command("torch")
        ) from error
    transformers.logging.set_verbosity_error()
    return torch, transformers


def pick_device(name: str | None) -> str:
    """`name`, or the accelerator that is here, or cpu."""
    torch, _ = torch_modules()
    if name:
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def values(tensor: Tensor) -> F32:
    """All values of a tensor, float32 in its shape, read in row blocks."""
    out = np.empty(tensor.shape, np.float32)
    rows = out.reshape(num_rows(tensor), -1)
    step = max(1, _BLOCK // rows.shape[1])
    for start in range(0, len(rows), step):
        rows[start : start + step] = tensor.rows(start, min(start + step, len(rows)))
    return out


_EXPERTS = "experts are not calibrated yet"
REFUSED = {
    "falcon_h1": "its states are not calibrated yet",
    "gemma4": "layers that share keys and values are not calibrated yet",
    "gpt_oss": _EXPERTS,
    "granitehybrid": "its states are not calibrated yet",
    "granitemoe": _EXPERTS,
    "lfm2": "its convolutions are not calibrated yet",
    "lfm2moe": _EXPERTS,
    "mixtral": _EXPERTS,
    "olmoe": _EXPERTS,
    "phi2": "its attention and feed-forward part stand side by side, which is not run here yet",
    "qwen2moe": _EXPERTS,
    "qwen35": "its delta nets are not calibrated yet",
    "qwen35moe": _EXPERTS,
}
"""Families whose layers are not run one by one yet, and why."""


class Network:
    """A model's layers as torch modules without weights; `layer` fills one, `whole` all of them.

    Raises UnsupportedError for an architecture transformers does not know.
    """

    def __init__(self, model: Model, device: str | None = None) -> None:
        families.require(model, REFUSED, "calibration")
        torch, transformers = torch_modules()
        self.model, self.device = model, pick_device(device)
        self.config, self.tensors, _ = families.to_hf(model)
        self.places = families.hf_places(model)
        settings = transformers.AutoConfig.for_model(**self.config)
        with torch.device("meta"):
            self.skeleton = transformers.AutoModelForCausalLM.from_config(
                settings, dtype=torch.float32
            )
        self.skeleton.eval()
        take_apart(self.skeleton, torch)
        self.body = self.skeleton.model
        # Rotary frequencies are computed, not stored.
        self.body.rotary_emb = type(self.body.rotary_emb)(config=settings).to(self.device)
        self.num_layers = len(self.body.layers)
        self._layer_arguments: list[dict[str, Any]] = []

    def _fill(self, module: Any, prefix: str) -> Any:
        torch, _ = torch_modules()
        module = module.to_empty(device=self.device)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                parameter.copy_(torch.from_numpy(values(self.tensors[f"{prefix}.{name}"])))
        return module.requires_grad_(False)

    def embed(self, ids: Any) -> Any:
        """Hidden states before the first layer, f32 [windows, tokens, hidden], of ids int32.

        Records the other arguments of the layers, which `layer` needs.
        """
        torch, _ = torch_modules()
        used, places = np.unique(ids, return_inverse=True)
        table = self.tensors["model.embed_tokens.weight"]
        rows = np.concatenate([table.rows(int(t), int(t) + 1) for t in used])
        embedding = self.body.embed_tokens.to_empty(device=self.device)
        _restore_scale(embedding)
        embedding.weight = torch.nn.Parameter(
            torch.from_numpy(rows).to(self.device), requires_grad=False
        )
        embedding.padding_idx = None
        places = torch.from_numpy(places.reshape(ids.shape)).to(self.device)
        layers, norm = self.body.layers, self.body.norm
        recorders = [_recorder(torch) for _ in layers]
        self.body.layers, self.body.norm = torch.nn.ModuleList(recorders), torch.nn.Identity()
        try:
            with torch.no_grad():
                hidden = [
                    self.body(input_ids=p[None], use_cache=False).last_hidden_state[0].cpu()
                    for p in places
                ]
        finally:
            self.body.layers, self.body.norm = layers, norm
        self._layer_arguments = [r.arguments for r in recorders]
        embedded = torch.stack(hidden)
        self.check(embedded, "the embedding")
        return embedded

    @contextmanager
    def layer(self, index: int) -> Generator[Callable[[Any], Any]]:
        """Layer `index` with its weights: a function of hidden states [tokens, hidden]."""
        from copy import deepcopy

        module = self._fill(deepcopy(self.body.layers[index]), f"model.layers.{index}")

        def run(hidden: Any) -> Any:
            out = module(hidden[None].to(self.device), **self._layer_arguments[index])
            return (out[0] if isinstance(out, tuple) else out)[0]

        run.module = module  # type: ignore[attr-defined]
        yield run

    def norm(self) -> Any:
        """The last normalisation, with its weights: what the head reads."""
        from copy import deepcopy

        return self._fill(deepcopy(self.body.norm), "model.norm")

    def readers(self, index: int, module: Any) -> Iterator[tuple[str, int | None, Any]]:
        """(GGUF name, number of the expert, torch module) of everything that reads in a layer.

        Experts as a whole come before each of them, under the name of their gates.
        """
        torch, _ = torch_modules()
        for name, part in module.named_modules():
            path = f"model.layers.{index}.{name}"
            if getattr(part, "is_experts", False):
                yield self.places[f"{path}.0.gate_proj.weight"][0], None, part
            elif isinstance(part, torch.nn.Linear):
                tensor, expert = self.places[f"{path}.weight"]
                yield tensor, expert, part

    def whole(self) -> Any:
        """The complete model in memory, float32."""
        torch, _ = torch_modules()
        module = self.skeleton.to_empty(device=self.device)
        module.tie_weights()
        module.model.rotary_emb = type(module.model.rotary_emb)(config=module.config).to(
            self.device
        )
        _restore_scale(module.model.embed_tokens)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                parameter.copy_(torch.from_numpy(values(self.tensors[name])))
        return module

    def check(self, hidden: Any, where: str) -> None:
        """Raise KannaError naming `where` when activations are not numbers."""
        torch, _ = torch_modules()
        if not bool(torch.isfinite(hidden).all()):
            raise KannaError(
                f"the activations of {where} are not numbers",
                expected="a model that computes in float32",
                todo="check the weights: `kanna inspect SRC --tensors`",
            )


def _restore_scale(embedding: Any) -> None:
    """Set the factor of Gemma's embeddings again: it is computed, and an emptied module lost it."""
    if hasattr(embedding, "embed_scale"):
        embedding.embed_scale.fill_(embedding.scalar_embed_scale)


def _recorder(torch: Any) -> Any:
    class Recorder(torch.nn.Module):
        """Takes the place of a layer: passes hidden states on and records the other arguments."""

        def __init__(self) -> None:
            super().__init__()
            self.arguments: dict[str, Any] = {}

        def forward(self, hidden_states: Any, **arguments: Any) -> Any:
            self.arguments = arguments
            return hidden_states

    return Recorder()

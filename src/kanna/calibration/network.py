"""The network in torch, one decoder layer in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, TypeVar

import numpy as np

from kanna._util.progress import Progress, remark
from kanna.calibration.devices import (
    CPU,
    GROUP,
    moved,
    pick_device,
    torch_modules,
    within_memory,
)
from kanna.calibration.experts import take_apart
from kanna.calibration.network_weights import NetworkWeights, values
from kanna.calibration.per_layer_inputs import NORM, LayerGradients, PerLayerInputs
from kanna.calibration.shared_states import SharedStates
from kanna.calibration.stand_ins import (
    body_of_states,
    called,
    put_aside,
    recorder_of,
    restore_computed,
)
from kanna.calibration.streams import INTO, OUT_OF, StreamLayout
from kanna.errors import KannaError
from kanna.formats import not_numbers
from kanna.model import F32, Model

T = TypeVar("T")

PER_LAYER, FIRST_SHARED = "hidden_size_per_layer_input", "first_kv_shared_layer_idx"
"""Attributes of a network of Gemma 4: width of what each layer reads of its own, and the first
layer that takes keys and values of others."""


def _shares(layer: Any) -> bool:
    """Whether keys and values go from this layer to others, or come from one."""
    attention = getattr(layer, "self_attn", None)
    flags = ("is_kv_shared_layer", "store_full_length_kv")
    return any(getattr(attention, flag, False) for flag in flags)


class Network:
    """A model's layers as torch modules without weights; `layer` fills one, `whole` all of them.

    Attributes:
        width: Values of a token's hidden states: of all streams where there are several.
        vocabulary_rows: Tokens whose rows the embedding has in memory, int32 [n].
        table_path: Path of the embedding.
        norm_path: Path of the last norm.

    Raises UnsupportedError for an architecture transformers does not know.
    """

    def __init__(
        self,
        model: Model,
        device: str | None = None,
        shared: SharedStates | None = None,
        on_fill: Callable[[Any, str], None] | None = None,
    ) -> None:
        """Make its modules, without weights.

        Args:
            model: The model.
            device: cpu, cuda or mps; None: an accelerator when there is one.
            shared: Where keys and values go that layers share; None: into memory.
            on_fill: Is given every layer and norm that has its weights, and its path.
        """
        torch, transformers = torch_modules()
        self.model, self.device = model, pick_device(device)
        self._on_fill = on_fill
        self.weights = NetworkWeights(model)
        settings = transformers.AutoConfig.for_model(**self.weights.config)
        with torch.device("meta"):
            self.skeleton = transformers.AutoModelForCausalLM.from_config(
                settings, dtype=torch.float32
            )
        self.skeleton.eval()
        take_apart(self.skeleton, torch)
        self.body = self.skeleton.model
        self._renew_rotary(self.skeleton)
        self.num_layers = len(self.body.layers)
        self.streams = StreamLayout(self.body)
        self.width = int(self.weights.config["hidden_size"]) * self.streams.count
        self._last_norm = called(self.body, "norm", "embedding_norm", "final_layernorm", "norm_f")
        self._table = called(self.body, "embed_tokens", "embeddings")
        self.table_path, self.norm_path = f"model.{self._table}", f"model.{self._last_norm}"
        self._layer_arguments: list[dict[str, Any]] = []
        self._per_layer: PerLayerInputs | None = None
        self._into: Any = None
        self._places: Any = None
        self.shared = shared or SharedStates()
        # Layers that read more of a window than hidden states take one at a time.
        alone = bool(getattr(self.body, PER_LAYER, 0)) or any(map(_shares, self.body.layers))
        self.group = 1 if alone or self.device == CPU else GROUP
        self.remarks: list[str] = []

    def groups(self, kinds: Sequence[object]) -> list[list[int]]:
        """Numbers of windows that go through a layer together, all of a group of one kind.

        Args:
            kinds: The kind of each window.
        """
        if self.group == 1:
            return [[number] for number in range(len(kinds))]
        chosen: list[list[int]] = []
        for kind in dict.fromkeys(kinds):
            numbers = [number for number, one in enumerate(kinds) if one == kind]
            chosen += [numbers[a : a + self.group] for a in range(0, len(numbers), self.group)]
        return chosen

    def within_memory(self, work: Callable[[], T], where: str, progress: Progress) -> T:
        """What `work` returns, begun again with less where the memory of the device runs out.

        First with fewer windows at a time, then on the CPU, where everything after it stays.

        Args:
            work: What is done; it may be begun several times.
            where: What of the network runs, for the remark.
            progress: Is shown the remark.
        """

        def lighten() -> bool:
            if self.device == CPU:
                return False
            full = f"the memory of {self.device} did not suffice for {where}"
            if self.group > 1:
                self.group = 1
                self.remarks.append(f"{full}: fewer windows at a time from there on")
            else:
                self.remarks.append(f"{full}: on the CPU from there on")
                self.move(CPU)
            remark(progress, self.remarks[-1])
            return True

        return within_memory(work, lighten)

    def move(self, device: str) -> None:
        """Compute on another device from here on."""
        self.device = device
        self._renew_rotary(self.skeleton)
        self._layer_arguments = moved(self._layer_arguments, device)
        self._places = moved(self._places, device)
        if self.embedding.weight.device.type != "meta":
            self.embedding.to(device)
        if self._per_layer is not None:
            self._per_layer.move(device)
        if self._into is not None:
            self._into.to(device)

    def _renew_rotary(self, network: Any) -> None:
        """Make the rotary embedding again, if it has one: frequencies are computed, not stored."""
        for name in ("rotary_emb", "pos_emb"):
            if (rotary := getattr(network.model, name, None)) is not None:
                renewed = type(rotary)(config=network.config)
                setattr(network.model, name, renewed.to(self.device))

    def _fill(self, module: Any, prefix: str) -> Any:
        module = module.to_empty(device=self.device)
        self.weights.copy(module, f"{prefix}.")
        restore_computed(module)
        module.requires_grad_(False)
        if self._on_fill is not None:
            self._on_fill(module, prefix)
        return module

    def embed(self, ids: Any, out: F32 | None = None) -> Any:
        """Hidden states before the first layer, f32 [windows, tokens, width], of ids int32.

        Records the other arguments of the layers, which `layer` needs.

        Args:
            ids: [windows, tokens].
            out: Where they go; None: into memory.
        """
        torch, _ = torch_modules()
        used, places = np.unique(ids, return_inverse=True)
        self.vocabulary_rows = used
        table = self.weights.tensors[f"{self.table_path}.weight"]
        rows = np.concatenate([table.rows(int(t), int(t) + 1) for t in used])
        embedding = self.embedding.to_empty(device=self.device)
        restore_computed(embedding)
        embedding.weight = torch.nn.Parameter(
            torch.from_numpy(rows).to(self.device), requires_grad=False
        )
        embedding.padding_idx = None
        places = torch.from_numpy(places.reshape(ids.shape)).to(self.device)
        self._places = places
        if getattr(self.body, PER_LAYER, 0):
            with torch.no_grad():
                every = embedding(torch.arange(len(used), device=self.device))
            self._per_layer = PerLayerInputs(
                self.body, self.weights.tensors, used, places.cpu().numpy(), every
            )
        if self.streams.count > 1:
            self._into = self._fill(deepcopy(getattr(self.body, INTO)), f"model.{INTO}")
        with self._without_layers() as recorders, torch.no_grad():
            states = np.empty((*ids.shape, self.width), np.float32) if out is None else out
            embedded = torch.from_numpy(states)
            for window, of_window in zip(embedded, places, strict=True):
                window.copy_(self._entering(recorders, of_window))
        self._layer_arguments = [r.arguments for r in recorders]
        self.check(embedded, "the embedding", "token_embd.")
        return embedded

    def _entering(self, recorders: Sequence[Any], ids: Any) -> Any:
        """The states of a window that its first layer is given, of numbers of its tokens."""
        self.body(input_ids=ids[None], use_cache=False)
        return self.streams.joined(recorders[0].hidden_states)

    @contextmanager
    def _without_layers(self) -> Generator[list[Any]]:
        """The body with recorders in place of its layers, and without its last norm."""
        torch, _ = torch_modules()
        recorders = [recorder_of(layer, torch) for layer in self.body.layers]
        aside = {"layers": torch.nn.ModuleList(recorders), self._last_norm: torch.nn.Identity()}
        # What each layer reads of its own is computed with the layer.
        without = {PER_LAYER: 0, FIRST_SHARED: -1}
        aside |= {name: value for name, value in without.items() if hasattr(self.body, name)}
        aside |= self.streams.aside(self._into)
        with put_aside(self.body, aside):
            yield recorders

    def embedding_gradient(self, number: int, gradient: Any) -> Any:
        """The gradient of what leaves the embedding, from that of what enters the first layer.

        Args:
            number: The window, of those that `embed` was given.
            gradient: [tokens, width].
        """
        leaves: list[Any] = []

        def start(_module: Any, _given: Any, out: Any) -> Any:
            leaves.append(out.detach().requires_grad_())
            return leaves[0]

        hook = self.embedding.register_forward_hook(start)
        with self._without_layers() as recorders:
            self._entering(recorders, self._places[number]).backward(gradient)
        hook.remove()
        return leaves[0].grad[0]

    def embedding_scale(self) -> float:
        """What the rows of the embedding are multiplied by before they leave it."""
        return float(getattr(self.embedding, "scalar_embed_scale", 1.0))

    @property
    def embedding(self) -> Any:
        """Its module, which has the rows of `vocabulary_rows`."""
        return getattr(self.body, self._table)

    def places(self, number: int) -> Any:
        """Which of `vocabulary_rows` every token of a window is, [tokens]."""
        return self._places[number]

    def per_layer_scale(self) -> float | None:
        """The same of the embeddings that each layer has of its own; None where it has none."""
        if self._per_layer is None:
            return None
        return float(self.body.embed_tokens_per_layer.scalar_embed_scale)

    @contextmanager
    def head(self) -> Generator[Callable[[Any], Any]]:
        """The last norm and the head: logits [tokens, vocabulary] of hidden states."""
        torch, _ = torch_modules()
        linear, norm = deepcopy(self.skeleton.lm_head), self.norm()
        linear.weight = torch.nn.Parameter(
            torch.from_numpy(values(self.weights.head)).to(self.device), requires_grad=False
        )
        if linear.bias is not None:
            bias = torch.from_numpy(values(self.weights.tensors["lm_head.bias"])).to(self.device)
            linear.bias = torch.nn.Parameter(bias, requires_grad=False)
        body = body_of_states(torch)

        def run(hidden: Any) -> Any:
            body.states = norm(hidden)[None]
            ids = torch.zeros((1, len(hidden)), dtype=torch.int64, device=self.device)
            return self.skeleton(input_ids=ids, use_cache=False).logits[0]

        run.module = linear  # type: ignore[attr-defined]
        with put_aside(self.skeleton, {"model": body, "lm_head": linear}):
            yield run

    @contextmanager
    def layer(
        self, index: int, gradients: LayerGradients | None = None
    ) -> Generator[Callable[[Any, int], Any]]:
        """Layer `index` with its weights: a function of hidden states [tokens, width].

        It takes the number of the window, too: some layers read more of it than hidden states. Its
        `several` takes windows of `groups` together, [windows, tokens, width], with their numbers.

        Args:
            index: The layer.
            gradients: Where gradients of what it reads of its own go; None: none are taken.
        """
        module = self._fill(deepcopy(self.body.layers[index]), f"model.layers.{index}")
        arguments = self._layer_arguments[index]
        further = None
        if self._per_layer is not None:
            scale = self._fill(deepcopy(self.body.per_layer_projection_norm), NORM)
            further = self._per_layer.of_layer(index, scale, gradients)
        attention = getattr(module, "self_attn", None)
        kind = getattr(attention, "layer_type", "")
        reads = getattr(attention, "is_kv_shared_layer", False)
        gives = getattr(attention, "store_full_length_kv", False)

        def run(hidden: Any, number: int) -> Any:
            more: dict[str, Any] = {}
            if further is not None:
                more["per_layer_input"] = further(number)[None].to(self.device)
            if reads or gives:
                states = {}
                if reads:
                    given = self.shared.get(kind, number)
                    states[kind] = tuple(part.to(self.device) for part in given)
                more["shared_kv_states"] = states
            out = self.streams.joined(together(self.streams.split(hidden), more))
            if gives:
                self.shared.put(kind, number, more["shared_kv_states"][kind])
            return out

        def together(hidden: Any, more: dict[str, Any]) -> Any:
            out = module(hidden.to(self.device), **(arguments | more))
            return out[0] if isinstance(out, tuple) else out

        def several(hidden: Any, numbers: Sequence[int]) -> Any:
            if len(numbers) == 1:
                return run(hidden[0], numbers[0])[None]
            return together(hidden, {})

        run.module = module  # type: ignore[attr-defined]
        run.several = several  # type: ignore[attr-defined]
        try:
            yield run
        finally:
            module.to_empty(device="meta")  # functions and hooks that refer to it live on

    def norm(self) -> Any:
        """From the last hidden states of a window to what the head reads: a normalisation."""
        norm = self._fill(deepcopy(getattr(self.body, self._last_norm)), self.norm_path)
        if self.streams.count == 1:
            return norm
        out_of = self._fill(deepcopy(getattr(self.body, OUT_OF)), f"model.{OUT_OF}")
        return self.streams.closed(norm, out_of)

    def readers(self, index: int, module: Any) -> Iterator[tuple[str, int | None, Any]]:
        """(GGUF name, number of the expert, torch module) of everything that reads in a layer.

        Experts as a whole come before each of them, under the name of their first matrices.
        """
        torch, _ = torch_modules()
        for name, part in module.named_modules():
            path = f"model.layers.{index}.{name}"
            if getattr(part, "is_experts", False):
                first = "gate_proj" if hasattr(part[0], "gate_proj") else "up_proj"
                yield self.weights.place(f"{path}.0.{first}")[0], None, part
            elif isinstance(part, torch.nn.Linear):
                yield *self.weights.place(path), part

    def whole(self) -> Any:
        """The complete model in memory, float32."""
        module = self.skeleton.to_empty(device=self.device)
        module.tie_weights()
        self._renew_rotary(module)
        self.weights.copy(module)
        restore_computed(module)
        return module

    def check(self, hidden: Any, where: str, tensors: str) -> None:
        """Raise KannaError when activations are not numbers, with the weight that is none.

        Args:
            hidden: The activations.
            where: What gave them, in words.
            tensors: How the names of its tensors begin.
        """
        torch, _ = torch_modules()
        if bool(torch.isfinite(hidden).all()):
            return
        if at := not_numbers.first(self.model, tensors):
            raise KannaError(
                f"the activations of {where} are not numbers: {at}, holds NaN or infinity",
                expected=not_numbers.EXPECTED,
                todo=not_numbers.TODO,
            )
        raise KannaError(
            f"the activations of {where} are not numbers",
            expected="a model that computes in float32",
            todo=not_numbers.GROWN,
        )

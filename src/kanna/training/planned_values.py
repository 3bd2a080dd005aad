"""Training that sees the values a plan will store, in place of those it was given.

The forward pass multiplies by decode(encode(W + change)), and gradients pass as if nothing were
encoded (the straight-through estimator of Bengio et al. 2013, arXiv:1308.3432). The base's own
matrices hold what is left when the change is taken away again, so that PEFT's layers compute the
sum as ever, and a step costs what it costs without a plan. What is stored is encoded anew after
every EVERY steps and before every look at held-out examples, by rounding to the nearest value:
between two times the error of encoding stays as it was, and the change moves freely.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kanna import encodings, families
from kanna.encodings import Encoding
from kanna.errors import UsageError
from kanna.families import text_name
from kanna.formats import gguf, parse_preset
from kanna.model import F32
from kanna.plan import load, resolve
from kanna.sources import Source

EVERY = 8
"""Steps after which what is stored is encoded anew."""
_AT_ONCE = 1 << 22
"""Values that are encoded at once."""
_ADAPTER = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTypes:
    """What a plan stores the matrices of a model in.

    Attributes:
        name: Of the preset, or of the plan's file.
        plan: The plan's file; None: a preset.
        encodings: Encoding of every matrix, by Hugging Face's name of its weight.
    """

    name: str
    plan: Path | None
    encodings: Mapping[str, str]

    @classmethod
    def of(cls, source: Source, given: str) -> StoredTypes:
        """Those of a preset of GGUF or a plan file.

        Args:
            source: The base model.
            given: The name of a preset, or the path of a plan.

        Raises:
            UsageError: It is a preset of another format.
            PlanError: There is no such preset, or the plan does not fit the model.
        """
        model = families.load_for_gguf(source)
        if Path(given).is_file():
            path, name = Path(given), Path(given).name
            resolved = resolve(model, plan=load(path), method="nearest")
        else:
            format, preset = parse_preset(None, given)
            if format != gguf.FORMAT.name:
                raise UsageError(
                    f"--for {given} is a preset of {format}",
                    expected="a preset of GGUF, such as Q4_K_M, or the file of a plan",
                    todo="train without --for, and convert afterwards",
                )
            path, name = None, str(preset)
            resolved = resolve(model, preset=preset, method="nearest")
        named = families.hf_names(model)
        return cls(
            name=name,
            plan=path,
            encodings={
                text_name(named[entry.name]): entry.encoding.name
                for entry in resolved.entries
                if entry.name in named and len(entry.tensor.shape) == 2
            },
        )


@dataclass(slots=True, kw_only=True)
class PlannedValues:
    """A model of PEFT whose matrices are what a plan stores.

    Attributes:
        types: What it stores them in.
        threads: Threads to encode with.
    """

    types: StoredTypes
    threads: int
    _layers: list[tuple[Any, Encoding, Any]] = field(
        default_factory=list[tuple[Any, Encoding, Any]]
    )
    _fixed: list[tuple[Any, Any]] = field(default_factory=list[tuple[Any, Any]])

    def attach(self, model: Any) -> None:
        """Take over a model's matrices; those without a change are encoded now, once for all.

        Args:
            model: PEFT's model.
        """
        import torch
        from peft.tuners.tuners_utils import BaseTunerLayer

        seen: set[int] = set()
        for name, module in list(model.named_modules()):
            if isinstance(module, (torch.nn.Linear, torch.nn.Embedding)):
                tuner = model.get_submodule(name.rpartition(".")[0])
                own = text_name(f"{_plain(name)}.weight")
                kind, weight = self.types.encodings.get(own), module.weight
                if kind is None or id(weight) in seen:
                    continue
                seen.add(id(weight))
                kept = _smallest(weight.detach())
                if isinstance(tuner, BaseTunerLayer) and name.endswith(".base_layer"):
                    self._layers.append((tuner, encodings.get(kind), kept))
                else:
                    self._fixed.append((module, kept))
                    self._put(weight, encodings.get(kind), kept.float(), None)
        self.encode()

    def encode(self) -> None:
        """Encode what the matrices are with their changes of now."""
        import torch

        with torch.no_grad():
            for tuner, encoding, kept in self._layers:
                change = tuner.get_delta_weight(_ADAPTER).float()
                weight = tuner.get_base_layer().weight
                self._put(weight, encoding, kept.float() + change, change)

    def detach(self) -> None:
        """Give the matrices the values back that they had."""
        for tuner, _, kept in self._layers:
            _copy(tuner.get_base_layer().weight, kept)
        for module, kept in self._fixed:
            _copy(module.weight, kept)
        self._layers.clear()
        self._fixed.clear()

    def _put(self, weight: Any, encoding: Encoding, values: Any, change: Any) -> None:
        """Let a matrix be what is stored of the values, without a change that is added to it."""
        import torch

        x = np.ascontiguousarray(values.cpu().numpy(), np.float32)
        stored = torch.from_numpy(_stored(encoding, x, self.threads)).to(weight.device)
        _copy(weight, stored if change is None else stored - change)


def _stored(encoding: Encoding, x: F32, threads: int) -> F32:
    """What is read again of a matrix that is encoded, f32 [rows, columns]."""
    out = np.empty_like(x)
    step = max(1, _AT_ONCE // x.shape[1])
    for start in range(0, len(x), step):
        data = encoding.encode(x[start : start + step], threads=threads)
        out[start : start + step] = encoding.decode(data, x.shape[1])
    return out


def _copy(weight: Any, values: Any) -> None:
    import torch

    with torch.no_grad():
        weight.copy_(values)


def _smallest(weight: Any) -> Any:
    """A copy of a matrix in 16 bits where those hold it exactly, as most published ones are."""
    import torch

    for dtype in (torch.bfloat16, torch.float16):
        copy = weight.to(dtype, copy=True)
        if torch.equal(copy.to(weight.dtype), weight):
            return copy
    return weight.clone()


def _plain(name: str) -> str:
    """A module as it is called without PEFT."""
    return name.removeprefix("base_model.model.").removesuffix(".base_layer")


def callback(transformers: Any, planned: PlannedValues) -> Any:
    """Encodes anew while a trainer goes on; transformers is imported only now.

    Args:
        transformers: The library.
        planned: What is encoded.
    """

    class EncodeAnew(transformers.TrainerCallback):
        """Counts steps."""

        def on_step_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            if state.global_step % EVERY == 0:
                planned.encode()

    return EncodeAnew()


def judged(judge: Callable[[Any], Any], planned: PlannedValues) -> Callable[[Any], Any]:
    """A judge that sees the values of now as they are stored.

    Args:
        judge: Judges a model.
        planned: What is encoded before.
    """

    def encoded(model: Any) -> Any:
        planned.encode()
        return judge(model)

    return encoded

"""Memory of training: told before the first step, and a lighter step where there is too little.

A lighter step reads fewer examples together and adds their gradients up, so that what is learned of
each step stays the same; one that reads them one by one computes its layers again in the backward
pass, in place of keeping what they computed.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from kanna._util.progress import Progress, remark
from kanna._util.units import format_size
from kanna.calibration import devices
from kanna.errors import KannaError
from kanna.hardware.memory import memory
from kanna.model import num_weights
from kanna.sources import Source
from kanna.training import objectives
from kanna.training.settings import FULL, TrainingSettings

_LINEAR = ("Linear", "BlockLinear")
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
"""What PyTorch says where an allocation on the CPU fails."""
_TRAINED = 16
"""Bytes of a value that is trained: itself or its best state, gradient and two moments of AdamW."""
_MMAP_THRESHOLD, _LARGE = -3, 1 << 20
"""glibc's M_MMAP_THRESHOLD, and the bytes from which blocks are mapped each by itself."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """How a step is made.

    Attributes:
        batch: Examples that it learns from.
        together: Those that are read together; a divisor of them.
        recomputes: Whether layers are computed again in the backward pass.
    """

    batch: int
    together: int
    recomputes: bool

    @classmethod
    def of(cls, settings: TrainingSettings) -> MicroBatch:
        """The one that is the fastest."""
        recomputes = settings.device != "cpu" or settings.base_bits is not None
        return cls(batch=settings.batch, together=settings.batch, recomputes=recomputes)

    def lighter(self) -> MicroBatch | None:
        """One that needs less memory and learns the same; None where there is none."""
        if self.together > 1:
            half = self.together // 2
            divisor = next(n for n in range(half, 0, -1) if self.batch % n == 0)
            return replace(self, together=divisor)
        return None if self.recomputes else replace(self, recomputes=True)

    def arguments(self) -> dict[str, Any]:
        """As trainers of transformers take it."""
        return {
            "per_device_train_batch_size": self.together,
            "gradient_accumulation_steps": self.batch // self.together,
            "gradient_checkpointing": self.recomputes,
        }

    def words(self) -> str:
        """For people."""
        if self.together == 1:
            again = ", and layers computed again in the backward pass" if self.recomputes else ""
            return f"examples are read one by one{again}"
        return f"{self.together} of the {self.batch} examples of a step are read together"


def predicted_bytes(model: Any, settings: TrainingSettings, step: MicroBatch, length: int) -> int:
    """Memory that training takes, about.

    The weights; values, gradients and two moments of AdamW for what is trained; what the backward
    pass keeps of every layer; logits in float32, their gradient and their softmax.

    Args:
        model: A causal language model of transformers, before it is adapted.
        settings: How it is trained.
        step: How a step is made.
        length: Tokens of the longest example.
    """
    return _weights(model) + work_bytes(model, settings, step, length)


def _weights(model: Any) -> int:
    held = [*model.parameters(), *model.buffers()]  # a base of few bits has buffers
    return sum(p.numel() * p.element_size() for p in held)


def work_bytes(model: Any, settings: TrainingSettings, step: MicroBatch, length: int) -> int:
    """What is needed beside the weights."""
    config = model.config.get_text_config()
    hidden, layers = int(config.hidden_size), int(config.num_hidden_layers)
    inner = int(getattr(config, "intermediate_size", 0) or 4 * hidden)
    matrices = [m for m in model.modules() if type(m).__name__ in _LINEAR]
    trained = (
        sum(p.numel() for p in model.parameters())
        if settings.method == FULL
        else sum(settings.rank * (m.in_features + m.out_features) for m in matrices)
    )
    sides = 2 if settings.objective in objectives.PAIRS else 1
    tokens = step.together * length * sides
    # Of one token, a layer keeps about ten vectors of its width and four of its inner width.
    width = 2 if settings.device == "cuda" else 4
    of_layer = 10 * hidden + 4 * inner
    kept = layers * hidden + of_layer if step.recomputes else layers * of_layer
    return _TRAINED * trained + tokens * (kept * width + 12 * int(config.vocab_size))


def peak_bytes(device: str) -> int | None:
    """The most memory this process held, or PyTorch on its device; None where it is not told.

    Args:
        device: Where it trained.
    """
    import torch

    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def free_bytes(device: str) -> int:
    """Memory that is free where training runs.

    Args:
        device: Where that is.
    """
    import torch

    return int(torch.cuda.mem_get_info()[0]) if device == "cuda" else memory().available


def fitting(
    model: Any, settings: TrainingSettings, length: int, progress: Progress
) -> tuple[MicroBatch, int]:
    """The fastest step that fits what is free, and the bytes of all that it takes; both are told.

    Raises:
        KannaError: All weights are trained, and no step fits.

    Args:
        model: A causal language model of transformers, loaded, before it is adapted.
        settings: How it is trained.
        length: Tokens of the longest example.
        progress: Where it is told.
    """
    free, weights = free_bytes(settings.device), _weights(model)
    if settings.device == "cuda":
        free -= weights  # which are not there yet
    fastest = step = MicroBatch.of(settings)
    while (work := work_bytes(model, settings, step, length)) > free:
        lighter = step.lighter()
        if lighter is None:
            break
        step = lighter
    if work > free and settings.method == FULL:
        raise _all_too_large(weights + work, free + weights)
    sentence = f"Training takes about {format_size(weights + work)} of memory"
    if work > free:
        sentence += f", and {format_size(max(0, free))} are free beside the weights: it may not fit"
    elif step != fastest:
        sentence += f", so that it fits what is free: {step.words()}"
    remark(progress, f"{sentence}.")
    return step, weights + work


def require_all_weights(source: Source, settings: TrainingSettings) -> None:
    """Raise KannaError, before any is read, where all weights and what trains them do not fit.

    Args:
        source: The base; of its weights, headers are read.
        settings: How it is trained.
    """
    if settings.method != FULL:
        return
    # In float32, with a best state, a gradient and two moments each: steps come on top.
    needed = (4 + _TRAINED) * sum(num_weights(t) for t in source.tensors.values())
    if needed > (free := free_bytes(settings.device)):
        raise _all_too_large(needed, free)


def _all_too_large(needed: int, free: int) -> KannaError:
    return KannaError(
        f"training all weights takes about {format_size(needed)} of memory, and "
        f"{format_size(max(0, free))} are free",
        expected="memory for the weights in float32, their best state, their gradients and two "
        "moments of AdamW each, and one example",
        todo="train an adapter beside them: --method lora; or take a smaller model or --max-length",
    )


def within(
    step: MicroBatch, work: Callable[[MicroBatch], T], clean: Callable[[], None], tell: Progress
) -> T:
    """What `work` returns; begun again with a lighter step where memory runs out.

    Args:
        step: The step to begin with.
        work: Trains with a step.
        clean: Makes the model what it was before.
        tell: Where a lighter step is told.

    Raises:
        KannaError: The lightest step does not fit.
    """
    while True:
        try:
            return work(step)
        except (RuntimeError, MemoryError) as error:
            if not is_full(error):
                raise
            lighter = step.lighter()
        # Outside, since the traceback holds the tensors that filled the memory.
        clean()
        devices.release()
        if lighter is None:
            raise KannaError(
                f"there is not enough memory for a step, also where {step.words()}",
                expected="memory for the model, one example and its gradients",
                todo="take a smaller --max-length or --rank, --base-bits 4, or a smaller model",
            )
        step = lighter
        remark(tell, f"There was not enough memory: from now on {step.words()}.")


def give_back_at_once() -> None:
    """Let glibc give large blocks back to the system when they are freed, and not keep them.

    By default it keeps freed blocks of up to 32 MiB for later ones: between matrices that are
    decoded over and over, gigabytes of pieces stay that nothing fits into.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE)


def is_full(error: BaseException) -> bool:
    """Whether memory ran out, of an accelerator or of the machine.

    Args:
        error: What was raised.
    """
    if isinstance(error, MemoryError) or devices.is_full(error):
        return True
    message = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in message for words in _NO_MEMORY)

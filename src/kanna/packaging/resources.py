"""Memory and cores of a served artefact, by the arithmetic of `fit`, rounded up to whole MiB."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from kanna import formats
from kanna.errors import UsageError
from kanna.formats import gguf
from kanna.formats.memory import CONTEXT
from kanna.packaging.artefact import Artefact

MIB = 1 << 20
# The gateway and its engine process without a model: interpreter, libraries, connections.
PROCESS_BYTES = 512 * MIB
# Above the sum, for what is not counted: fragments, prompt caches, bursts of requests.
HEADROOM = 1.10
SHARE_OF_WARNING = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What the service may use.

    Attributes:
        context: Tokens of one request.
        parallel: Requests at once.
        cpus: Cores.
        weight_bytes: The artefact.
        kv_bytes: The key-value cache of all parallel requests.
        buffer_bytes: Buffers of the runtime.
        process_bytes: The gateway and an engine without a model.
        memory_bytes: The sum of these and a tenth more, in whole MiB.
        warning_bytes: Where a system that can slow a service down begins to.
    """

    context: int
    parallel: int
    cpus: int
    weight_bytes: int
    kv_bytes: int
    buffer_bytes: int
    process_bytes: int
    memory_bytes: int
    warning_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON has them."""
        return asdict(self)

    @property
    def memory_mib(self) -> int:
        """Limit of memory in MiB."""
        return self.memory_bytes // MIB

    @property
    def warning_mib(self) -> int:
        """Where slowing down begins, in MiB."""
        return self.warning_bytes // MIB


def beside_weights(artefact: Artefact, context: int) -> tuple[int, int]:
    """Bytes of the cache of one request, and of buffers and copies of weights, as `fit` has them.

    Args:
        artefact: What is served.
        context: Tokens of the request.
    """
    known = formats.get(artefact.kind).memory if artefact.kind in formats.names() else None
    memory = known or gguf.FORMAT.memory
    assert memory is not None
    cache = memory.cache(artefact.model, context, artefact.encodings)
    stored = artefact.model.tensors.items()
    copies = sum(memory.process.copied(name, t.dtype, t.nbytes) for name, t in stored)
    return cache, memory.buffers(artefact.model, context) + int(copies)


def resources(
    artefact: Artefact, *, context: int, parallel: int, cpus: int, serves: bool = True
) -> Resources:
    """Returns what an artefact needs where it runs.

    Args:
        artefact: What is served.
        context: Tokens of one request.
        parallel: Requests at once.
        cpus: Cores.
        serves: Whether a gateway runs it; without one there is one request at a time, and what
            the app around it needs is not counted.

    Raises:
        UsageError: A number is below 1, or the model was not trained for such a context.
    """
    for option, value in (("context", context), ("parallel", parallel), ("cpus", cpus)):
        if value < 1:
            raise UsageError(f"--{option} is {value}", expected="1 or more")
    trained = artefact.trained_context
    if trained and context > trained:
        raise UsageError(
            f"--context is {context} tokens, the model was trained for {trained}",
            expected=f"at most {trained}",
        )
    cache, buffers = beside_weights(artefact, context)
    buffers += artefact.picture_bytes
    parallel = parallel if serves else 1
    processes = PROCESS_BYTES if serves else 0
    kv = cache * parallel
    total = (artefact.num_bytes + kv + buffers + processes) * HEADROOM
    memory = -int(-total // MIB) * MIB
    return Resources(
        context=context,
        parallel=parallel,
        cpus=cpus,
        weight_bytes=artefact.num_bytes,
        kv_bytes=kv,
        buffer_bytes=buffers,
        process_bytes=processes,
        memory_bytes=memory,
        warning_bytes=int(memory * SHARE_OF_WARNING) // MIB * MIB,
    )


def memory_of(artefact: Artefact) -> tuple[int, int]:
    """Bytes that an artefact needs to run, at 4,096 tokens or what it was trained for; those."""
    context = min(CONTEXT, artefact.trained_context or CONTEXT)
    return artefact.num_bytes + sum(beside_weights(artefact, context)), context

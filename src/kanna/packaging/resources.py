"""What a served artefact takes.

Memory by the arithmetic of `fit`, rounded up for those who hand it out.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from kanna.errors import UsageError
from kanna.packaging.artefact import Artefact
from kanna.sizing import buffer_bytes, cache_bytes

MIB = 1 << 20
# The gateway and its engine process without a model: interpreter, libraries, connections.
PROCESS_BYTES = 512 * MIB
# Room above the sum for what is not counted: fragments, prompt caches, bursts of requests.
HEADROOM = 1.10
SHARE_OF_WARNING = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Bytes, and cores. memory = weights + cache of every slot + buffers + processes, a tenth more, in whole MiB.

    warning:  where a system that can throttle begins to

    Attributes:
        context: Tokens of one request.
        parallel: Requests at once.
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
        return asdict(self)

    @property
    def memory_mib(self) -> int:
        return self.memory_bytes // MIB

    @property
    def warning_mib(self) -> int:
        return self.warning_bytes // MIB


def resources(artefact: Artefact, *, context: int, parallel: int, cpus: int) -> Resources:
    """Raises UsageError for a context the model was not trained for."""
    for what, value in (("context", context), ("parallel", parallel), ("cpus", cpus)):
        if value < 1:
            raise UsageError(f"--{what} is {value}", expected="1 or more")
    trained = artefact.trained_context
    if trained and context > trained:
        raise UsageError(
            f"--context is {context} tokens, the model was trained for {trained}",
            expected=f"at most {trained}",
        )
    kv = cache_bytes(artefact.model, context) * parallel
    buffers = buffer_bytes(artefact.model, context)
    total = (artefact.num_bytes + kv + buffers + PROCESS_BYTES) * HEADROOM
    memory = -int(-total // MIB) * MIB
    return Resources(
        context=context,
        parallel=parallel,
        cpus=cpus,
        weight_bytes=artefact.num_bytes,
        kv_bytes=kv,
        buffer_bytes=buffers,
        process_bytes=PROCESS_BYTES,
        memory_bytes=memory,
        warning_bytes=int(memory * SHARE_OF_WARNING) // MIB * MIB,
    )

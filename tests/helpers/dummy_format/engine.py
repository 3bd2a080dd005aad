"""What a package needs to know of the engine that would serve the format."""

from __future__ import annotations

from helpers.dummy_format.container import FORMAT
from kanna.errors import UnsupportedError
from kanna.serving.engines.base import GENERATE, EngineConfig, EngineMemory, ServingEngine


def _missing() -> str:
    return ""


def _memory(_: EngineConfig) -> EngineMemory:
    return EngineMemory(weights=1, cache=1, buffers=1)


def _run(_: EngineConfig) -> None:
    raise UnsupportedError("the dummy is not served in tests")


ENGINE = ServingEngine(
    name="dummy",
    summary="Dummy: a folder of .npy files",
    artefact="a folder with dummy.json",
    extra="torch",
    modules=(),
    roles=(GENERATE,),
    accepts=FORMAT.opens,
    missing=_missing,
    memory=_memory,
    run=_run,
)

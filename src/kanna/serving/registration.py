"""Whether a model can be served here, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence

from kanna._util.units import format_size
from kanna.errors import MissingError, UsageError
from kanna.serving import engines
from kanna.serving.engines.base import EngineConfig, ServingEngine
from kanna.serving.served_model import ServedModel
from kanna.serving.settings import GatewaySettings, ModelSpec


def engine_config(
    spec: ModelSpec, engine: ServingEngine, settings: GatewaySettings
) -> EngineConfig:
    """The configuration of the process that a model has in any case."""
    return EngineConfig(
        engine=engine.name,
        path=str(spec.path),
        name=spec.name,
        role=engine.role_of(spec.path),
        context=settings.context,
        slots=settings.slots,
        threads=settings.threads,
        gpu_layers=settings.gpu_layers,
        draft=str(spec.draft) if spec.draft else None,
        adapters=[str(adapter) for adapter in spec.adapters],
        mmproj=str(spec.mmproj) if spec.mmproj else None,
        program=settings.native_program if engine.choose_program else None,
        memory_limit=settings.engine_memory,
    )


def missing(spec: ModelSpec, engine: ServingEngine, settings: GatewaySettings) -> str:
    """The command that installs what a model's engine lacks; empty when everything is here."""
    return "" if engine_config(spec, engine, settings).program else engine.missing()


def check_installed(specs: Sequence[ModelSpec], settings: GatewaySettings) -> None:
    """Raise MissingError for the first model whose engine is not installed.

    Raises SourceError where no engine runs it.
    """
    for spec in specs:
        engine = engines.for_artefact(spec.path)
        if todo := missing(spec, engine, settings):
            raise MissingError(
                f"{spec.path} runs in {engine.name}, which is not installed here",
                expected=f"the extra {engine.extra}",
                todo=todo,
            )


def check_companions(spec: ModelSpec, engine: ServingEngine) -> None:
    """Hold adapters, a draft model and a vision tower to what the engine takes.

    Raises:
        UsageError: It takes none, or none of this kind.
        FormatError: The tower is of another model.
    """
    takers = [engines.get(name) for name in engines.names()]
    if spec.adapters and not engine.takes_adapters:
        raise _refused(spec, engine, "adapters", [e for e in takers if e.takes_adapters])
    for adapter in spec.adapters if engine.check_adapter else ():
        assert engine.check_adapter
        engine.check_adapter(spec.path, adapter)
    if spec.draft and not engine.takes_draft:
        raise _refused(spec, engine, "draft model", [e for e in takers if e.takes_draft])
    if spec.mmproj and engine.check_tower is None:
        raise _refused(spec, engine, "vision tower", [e for e in takers if e.check_tower])
    if spec.mmproj and engine.check_tower:
        engine.check_tower(spec.path, spec.mmproj)


def _refused(
    spec: ModelSpec, engine: ServingEngine, companion: str, takers: list[ServingEngine]
) -> UsageError:
    artefacts = " or ".join(taker.artefact for taker in takers)
    return UsageError(
        f"{spec.path} runs in {engine.name}, which takes no {companion}",
        expected=f"{companion} with {artefacts}",
    )


def register(spec: ModelSpec, settings: GatewaySettings, budget: int) -> ServedModel:
    """A model that can be served, not loaded yet.

    Args:
        spec: What the operator asked to serve.
        settings: Of the gateway.
        budget: Bytes that loaded models may take together.

    Raises:
        SourceError: No engine runs the artefact.
        MissingError: Its engine is not installed.
        UsageError: It does not fit the budget, or has companions that its engine does not take.
    """
    check_installed([spec], settings)
    engine = engines.for_artefact(spec.path)
    check_companions(spec, engine)
    config = engine_config(spec, engine, settings)
    needed = engine.memory(config).total
    if needed > budget:
        raise UsageError(
            f"{spec.path} needs {format_size(needed)} with {settings.slots} slots of "
            f"{settings.context} tokens, the budget is {format_size(budget)}",
            todo="lower --parallel or --context, raise --memory, or take a smaller model "
            "(`kanna fit`)",
        )
    return ServedModel(spec=spec, engine=engine, bytes=needed, role=config.role)

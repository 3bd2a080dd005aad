"""`optimize` as a step: the closest artefact within a budget."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kanna.recipes.document import Value
from kanna.recipes.verbs.base import (
    ADAPTER,
    ANY,
    MODEL,
    PLAN,
    REPORT,
    STATISTICS,
    TEXT,
    Prediction,
    StepFile,
    StepVerb,
    at,
    kinds,
    loaded,
)


def _check(options: Mapping[str, Value]) -> None:
    from kanna._util.units import optional_size
    from kanna.conversion import onnx_provider
    from kanna.formats.onnx.static_shapes import StaticShape
    from kanna.optimization.request import OptimizeRequest

    def size(name: str) -> int | None:
        value = options.get(name)
        return optional_size(value) if isinstance(value, int | str) else None

    bpw, like, effort = (options.get(name) for name in ("bpw", "like", "effort"))
    OptimizeRequest(
        source="",
        out=Path("recipe"),
        format="",
        size=size("size"),
        memory=size("memory"),
        bpw=float(bpw) if isinstance(bpw, int | float) else None,
        like=like if isinstance(like, str) else None,
        effort=effort if isinstance(effort, str) else "balanced",
    ).check_budget()
    static, provider = (options.get(name) for name in ("static", "provider"))
    shapes = str(StaticShape.parse(static)) if isinstance(static, str) else None
    onnx_provider.wanted(provider if isinstance(provider, str) else None, shapes)


def _predict(options: Mapping[str, Value]) -> Prediction:
    from kanna._util.units import optional_size

    size, memory = options.get("size"), options.get("memory")
    return Prediction(
        file_bytes=optional_size(size) if isinstance(size, int | str) else None,
        memory_bytes=optional_size(memory) if isinstance(memory, int | str) else None,
        what="the budget, which it stays within",
    )


VERB = StepVerb(
    inputs={
        "source": kinds(MODEL),
        "calibration": kinds(TEXT),
        "text": kinds(TEXT),
        "adapter": kinds(ADAPTER),
        "data": kinds(TEXT),
        "speeds": kinds(),
    },
    outputs={
        "artefact": StepFile(kind=MODEL, path=at("artefact"), about="the file or folder to use"),
        "plan": StepFile(kind=PLAN, path=at("plan"), about="its plan"),
        "statistics": StepFile(kind=STATISTICS, path=at("statistics"), about="for convert"),
        "report": StepFile(kind=REPORT, path=at("report"), about="how it was chosen"),
    },
    figures={
        "file_bytes": at("file_bytes"),
        "budget": at("budget"),
        "bits_per_weight": at("bits_per_weight"),
        "kl_mean": at("kl_mean"),
        "top1": at("top1"),
        "grade": at("grade"),
        "predicted": at("predicted"),
        "rival_kl": at("rival_kl"),
        "gate": at("gate"),
        "retention": at("retention", "share"),
        "recovered_loss": at("tuning", "recovery", "reported", "after"),
        "task_loss": at("task_loss"),
        "outside": at("provider", "outside"),
    },
    out=lambda step, _: step,
    resumes=ANY,
    own=frozenset({"dry_run"}),
    words=frozenset({"self"}),
    shared=("statistics", "measure*.json", "probe*.json", ".kanna-compare.json"),
    remarks=True,
    times=True,
    check=_check,
    predict=_predict,
    runs=True,
    memory=loaded(6),
)

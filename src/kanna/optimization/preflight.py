"""A request held to its source and to the files it names, before anything slow is done.

Headers and the user's own files are all that is read, so that `--dry-run` checks the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kanna import families
from kanna._util.progress import remark
from kanna._util.units import format_size
from kanna.calibration import texts
from kanna.calibration.self_generated import SELF
from kanna.errors import UsageError
from kanna.escaping import argument
from kanna.evaluation.trained_length import trained_length
from kanna.evaluation.windows import read_text
from kanna.model import Model
from kanna.optimization import adapters
from kanna.optimization.adapters.base import Adapter
from kanna.optimization.budget import Budget
from kanna.optimization.constraints import Constraints
from kanna.optimization.context import Context, Workspace
from kanna.optimization.fine_tune import FineTune, open_fine_tunes
from kanna.optimization.guard import Guard, open_guard, refuse_silent
from kanna.optimization.request import OptimizeRequest
from kanna.sources import open_source


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedRequest:
    """What a request names, opened.

    Attributes:
        adapter: The format, for the source with what is merged into it.
        constraints: What the user demands of some tensors.
        fine_tunes: See Job.
        guard: Tasks that an artefact must not lose.
    """

    adapter: Adapter
    constraints: Constraints
    fine_tunes: Sequence[FineTune]
    guard: Guard | None


def check_request(
    request: OptimizeRequest, context: Context, *, weights: bool = True
) -> CheckedRequest:
    """Open what a request names.

    Args:
        request: What the user asks for.
        context: Gets notes on the fine-tunes.
        weights: Whether the weights of a hub id are fetched.

    Raises:
        UsageError: The request contradicts itself or the source, or a file cannot be read.
        SourceError: An adapter does not fit the source.
    """
    adapter_type = adapters.get(request.format).for_request(request)
    guard = open_guard(request.guard, request.examples)
    source = open_source(
        request.source,
        revision=request.revision,
        offline=request.offline,
        weights=weights,
        preflight=families.load_decoder,
        progress=context.progress,
    )
    model = families.load_decoder(source)
    request.check_budget()
    fine_tunes = open_fine_tunes(source, request)
    if fine_tunes and not request.apart:
        source = fine_tunes[0].tuned
        model = families.load_decoder(source)
    context.note(*(note for tune in fine_tunes for note in (*tune.tuned.notes, *tune.notes)))
    workspace = Workspace(source=source, model=model, folder=request.out, context=context)
    adapter = adapter_type(replace(workspace, provider=request.provider, static=request.static))
    _check_supported(adapter, request)
    _note_context(request, model, context)
    if context.place is not None:
        context.place.check()
    constraints = adapter.constraints(request)
    constraints.check(model)
    if request.text is not None:
        read_text(request.text)
    if request.calibration is not None and not fine_tunes:  # theirs was read with the examples
        texts.documents([path for path in request.calibration if str(path) != SELF], model)
    return CheckedRequest(
        adapter=adapter, constraints=constraints, fine_tunes=fine_tunes, guard=guard
    )


def _note_context(request: OptimizeRequest, model: Model, context: Context) -> None:
    """Say, before any work, where the cache of `--memory` is longer than the model can use."""
    trained = trained_length(model)
    if request.memory is None or not 0 < trained < request.context:
        return
    text = (
        f"a cache of {request.context} tokens (--context) is longer than the {trained} that the "
        f"model was trained on: it counts as memory, and its types are judged after {trained}"
    )
    context.note(text)
    remark(context.progress, text)


def _check_memory(adapter: Adapter, request: OptimizeRequest) -> None:
    """Raise UsageError for a budget of memory in a format that knows none."""
    if request.memory is not None and not adapter.supports_memory:
        where = f" --target {request.target}" if request.target else ""
        raise UsageError(
            f"{'a target alone is its memory, which' if where else '--memory'} has no use for "
            f"{adapter.format}",
            expected="one of --size, --bpw and --like",
            todo=f"`kanna fit {argument(request.source)} --format {adapter.format}{where}` shows "
            "what fits its memory",
        )


def _check_supported(adapter: Adapter, request: OptimizeRequest) -> None:
    """Refuse what the format or the source has no use for."""
    _check_memory(adapter, request)
    refuse_silent(request.guard, adapter.workspace.model, adapter.workspace.source)
    if request.apart and not adapter.supports_apart:
        raise UsageError(
            f"--apart with --format {adapter.format}, where no adapter is measured beside its base",
            expected="--format gguf",
            todo="make both by hand: kanna calibrate SRC --adapter FOLDER -o statistics, kanna "
            f"convert SRC --statistics statistics --format {adapter.format} -o base, kanna convert "
            f"SRC --adapter FOLDER --format {adapter.format} -o adapter",
        )
    _check_static(adapter, request)
    if request.like is not None:
        adapter.preset_named(request.like)
    if request.recover and not adapter.supports_tuning:
        raise UsageError(
            f"--recover has no use for {adapter.format}, whose folders cannot be tuned",
            expected="gguf, mlx or onnx",
        )
    if request.provider is not None and not adapter.takes_provider:
        raise UsageError(
            f"--provider {request.provider} has no use for {adapter.format}",
            expected="--format onnx, which onnxruntime's execution providers compute",
        )


def _check_static(adapter: Adapter, request: OptimizeRequest) -> None:
    """Raise UsageError for fixed shapes that a format has not, and for their speed."""
    if request.static is not None and not adapter.takes_static:
        raise UsageError(
            f"--static has no use for {adapter.format}",
            expected="--format onnx, whose graphs NPUs compile",
        )
    if request.counts_speed and not adapter.supports_speed:
        raise UsageError(
            "the speed of graphs of fixed shapes was asked for, and nothing here measures their "
            "device",
            expected="--size, --bpw or --like alone",
        )


def asked_budget(request: OptimizeRequest, adapter: Adapter) -> Budget:
    """What the user allows, in bytes, where it is not memory.

    Args:
        request: What the user asks for.
        adapter: The format; a preset is sized with its statistics.
    """
    if request.size is not None:
        return Budget(nbytes=request.size, words=f"a file of {format_size(request.size)}")
    if request.bpw is not None:
        nbytes = int(request.bpw * adapter.workspace.model.num_parameters / 8)
        return Budget(nbytes=nbytes, words=f"{request.bpw:g} bits per weight")
    assert request.like is not None
    preset = adapter.preset_named(request.like)
    return Budget(nbytes=adapter.preset_size(preset), words=f"the size of {adapter.label(preset)}")

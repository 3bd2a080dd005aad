"""What a tracking server is told of a recipe: its run, and a run below it for every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from kanna import tracking
from kanna.errors import FormatError
from kanna.formats.text_files import read_object
from kanna.recipes import records
from kanna.recipes.records import DONE, FAILED, KEPT, Manifest, StepState
from kanna.recipes.values import Option, StepOutput
from kanna.tracking import TrackedRun, TrackRequest, lineage, session

_MADE = {"artefact", "adapter", "model"}
"""Outputs that are weights; hashed, so that a run and what is served later are known as one."""


def follow(
    server: TrackRequest, manifest: Manifest, folder: Path, remark: Callable[[str], None] | None
) -> AbstractContextManager[TrackedRun]:
    """The run at a tracking server, from its variables to how it ended.

    Args:
        server: Which one.
        manifest: Of the run.
        folder: Of the run.
        remark: Is told when the server is lost.
    """
    return tracking.following(
        server,
        "run",
        manifest.name,
        unsent=folder / "untracked.jsonl",
        parameters={"recipe": Path(manifest.recipe).name, **manifest.variables},
        remark=remark,
    )


def note_step(
    run: TrackedRun, state: StepState, options: Mapping[str, Option], place: tuple[int, Path]
) -> None:
    """Tell what became of a step: options, figures, curve, files, and what it made from what.

    Args:
        run: That of the recipe.
        state: Of the step.
        options: Of its verb, as the recipe has them.
        place: Which of the steps it is, and the folder of the run.
    """
    number, folder = place
    if not run.on or state.state not in (DONE, KEPT, FAILED) or not run.once(state.id):
        return
    step = run.child(state.id)
    step.parameters(
        {"verb": state.verb, **state.axes, **{k: _named(v) for k, v in options.items()}}
    )
    step.metrics({"seconds": state.seconds, **state.figures}, number)
    run.metrics(state.figures, number)
    step.tags(
        {
            "kanna.step": state.id,
            "kanna.state": state.state,
            "kanna.key": state.key or None,
            "kanna.grade": state.figures.get("grade"),
            "kanna.gate": state.figures.get("gate"),
            "kanna.error": state.error.found if state.error else None,
        }
    )
    made = folder / "steps" / state.id
    with suppress(FormatError):
        step.curve(read_object(made / records.RESULT).values.get("history"))
    step.file(made / records.RESULT)
    plan = state.outputs.get("plan")
    for name, path in state.outputs.items():
        output = folder / path
        if name in _MADE:
            step.tags(lineage.of_artefact(output, folder / plan if plan else None))
        if output.is_file() or name in _MADE:
            step.file(output, name)
    step.end(session.FAILED if state.state == FAILED else session.FINISHED)


def note_run(run: TrackedRun, manifest: Manifest, folder: Path, report: str) -> None:
    """Tell what came of the run: the goals of a search by trial, its manifest and its report.

    Args:
        run: That of the recipe.
        manifest: Of the run.
        folder: Of the run.
        report: Name of the page in it.
    """
    for trial in manifest.trials:
        goals = {f"goal/{name}": value for name, value in trial.goals.items()}
        run.metrics(goals, trial.number)
    run.tags({f"kanna.input.{Path(one.given).name}.sha256": one.sha256 for one in manifest.inputs})
    for name in (records.MANIFEST, report):
        run.file(folder / name)


def _named(value: Option) -> object:
    """An option as text, with the outputs of other steps by their names."""
    if isinstance(value, StepOutput):
        return ", ".join(f"{step}.{value.output}" for step in value.instances)
    return [_named(one) for one in value] if isinstance(value, list) else value

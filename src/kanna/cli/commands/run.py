"""`kanna run RECIPE`: the steps of a recipe, those alone that something has changed for."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kanna.cli import options
from kanna.cli.options import command

if TYPE_CHECKING:
    from rich.console import Console

    from kanna.cli.ui import Terminal


@command(
    "run",
    when_interrupted="Interrupted. Run it again: the steps that were done are kept.",
)
@click.argument("recipe", type=options.FILE)
@click.option(
    "-o",
    "--output",
    "out",
    type=options.FILE,
    help="Folder of the run, or of the files of a job. [default: the recipe's name and -run]",
)
@click.option(
    "--set",
    "set",
    multiple=True,
    metavar="NAME=VALUE",
    help="Give a variable of the recipe another value; can be repeated.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would run, and what it would make.")
@click.option(
    "--on",
    default="local",
    show_default=True,
    metavar="EXECUTOR",
    help="Where it runs: `kanna components executors` lists what there is.",
)
@click.option(
    "--on-set",
    multiple=True,
    metavar="NAME=VALUE",
    help="Set an option of the executor, as YAML; can be repeated.",
)
@click.option("--on-config", type=options.FILE, help="A YAML file of such options.")
@click.option(
    "--jobs",
    type=click.IntRange(1),
    help="Steps at a time at most, as memory allows. [default: one for every two cores]",
)
@click.option(
    "--threads",
    type=click.IntRange(1),
    help="Threads that the running steps share. [default: one per core]",
)
@click.option(
    "--only",
    default="",
    metavar="STEP",
    help="Run one step alone, by the name of its folder; what it needs is in --made.",
)
@click.option(
    "--made",
    multiple=True,
    type=options.FILE,
    help="A folder of another run, whose steps are taken as they are; can be repeated.",
)
@options.offline
@options.tracking
def run_command(
    terminal: Terminal,
    recipe: Path,
    out: Path | None,
    set: tuple[str, ...],
    **choices: Any,
) -> None:
    """Run the steps of the file RECIPE, those alone whose options or inputs have changed.

    A recipe names verbs and their options in YAML, as docs/recipes.md describes. All of it is
    checked before anything runs. The folder gets what every step makes, manifest.json and
    report.html.

    With --on, it runs elsewhere, or the files are written that another service runs it by.

    Exit code 0: every step is done. 1: a step failed, the others went on. 2: the recipe is wrong.
    3: all that failed is not checkable or not available here.
    """
    from kanna.recipes import run

    result = run(
        recipe,
        out,
        set=set,
        progress=terminal.progress(),
        remark=terminal.note,
        **choices,
    )
    terminal.result(result, partial(_draw, quiet=terminal.quiet))
    click.get_current_context().exit(result.exit_code)


def _draw(screen: Console, data: dict[str, Any], *, quiet: bool) -> None:
    if data["job"]:
        _draw_job(screen, data, log=quiet)
        return
    if data["files"]:
        lines = ["Nothing was run. What comes next:", *(f"  {one}" for one in data["commands"])]
        for line in (*data["files"], *lines):
            screen.print(line, soft_wrap=True, markup=False)
        return
    if data["dry_run"]:
        _draw_plan(screen, data)
        return
    from kanna.cli.ui import table

    rows = table("step", "of", "verb", "state", "seconds>", "what was measured")
    style = {"failed": "bold red", "blocked": "red", "skipped": "dim", "stopped": "dim"}
    for step in data["steps"]:
        figures = ", ".join(_figures(step["figures"])) or step["why"]
        if step["error"]:
            figures = step["error"]["found"]
        seconds = f"{step['seconds']:.1f}"
        cells = [step["step"], _axes(step), step["verb"], step["state"], seconds, figures]
        rows.add_row(*cells, style=style.get(step["state"]))
    screen.print(rows)
    if data["trials"]:
        _draw_trials(screen, data)
    for name, paths in data["outputs"].items():
        for path in paths:
            screen.print(f"{name}: {path}", soft_wrap=True, markup=False)
    failed = f", {data['failed']} failed" if data["failed"] else ""
    screen.print(f"{data['ran']} steps run, {data['kept']} kept{failed}. Report: {data['report']}")


def _draw_job(screen: Console, data: dict[str, Any], *, log: bool) -> None:
    job = data["job"]  # whose log the remarks had, where there are any
    lines = [*(job["log"] if log else ()), f"{job['name']}: {job['state']}", job["why"]]
    lines += [f"What to do: {job['todo']}" if job["todo"] else "", job["url"]]
    lines += ["What it made:" if job["ok"] else "All that it left:"]
    lines += [f"  {one}" for one in (job["folder"], *data["commands"]) if one]
    for line in filter(None, lines):
        screen.print(line, soft_wrap=True, markup=False, highlight=False)


def _draw_trials(screen: Console, data: dict[str, Any]) -> None:
    from kanna.cli.ui import table

    variables, goals = (list(data["trials"][0][key]) for key in ("values", "goals"))
    rows = table("trial", *variables, *(f"{goal}>" for goal in goals), "state")
    for one in data["trials"]:
        state = one["state"] if one["feasible"] else "breaks a constraint"
        cells = [f"{'★ ' if one['best'] else '  '}{one['number']}"]
        cells += [str(one["values"].get(name, "–")) for name in variables]
        cells += [f"{value:.6g}" if value is not None else "–" for value in one["goals"].values()]
        cells += ["–"] * (len(goals) - len(one["goals"]))
        rows.add_row(*cells, state, style="bold green" if one["best"] else None)
    screen.print(rows)


def _figures(figures: dict[str, Any]) -> list[str]:
    from kanna._util.units import format_size

    shown: list[str] = []
    for name, unit in (("file_bytes", ""), ("kl_mean", "KL "), ("gen_tps", ""), ("gate", "")):
        value = figures.get(name)
        if value is None:
            continue
        if name == "file_bytes":
            shown.append(format_size(value))
        elif name == "gen_tps":
            shown.append(f"{value:.1f} tokens/s")
        else:
            shown.append(f"{unit}{value:.5f}" if isinstance(value, float) else str(value))
    return shown


def _axes(step: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in step["axes"].items())


def _draw_plan(screen: Console, data: dict[str, Any]) -> None:
    from kanna._util.units import format_size
    from kanna.cli.ui import table

    columns = ("step", "of", "verb", "after", "state", "file>", "memory>", "needs>", "last time>")
    rows = table(*columns)
    for step in data["planned"]:
        predicted = step["predicted"]
        sizes = [
            "" if predicted[key] is None else format_size(predicted[key])
            for key in ("file_bytes", "memory_bytes", "step_bytes")
        ]
        seconds = "" if step["seconds"] is None else f"{step['seconds']:.1f} s"
        cells = [step["step"], _axes(step), step["verb"], ", ".join(step["needs"])]
        rows.add_row(*cells, step["state"], *sizes, seconds)
    screen.print(rows)
    for step in data["planned"]:
        if step["why"]:
            screen.print(f"{step['id']}: nothing is predicted: {step['why']}", markup=False)
    screen.print(f"{len(data['planned'])} steps. Nothing was run.")


COMMAND = run_command

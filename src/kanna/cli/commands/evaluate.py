"""`kanna evaluate MODEL`: what the bits cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kanna.cli import options
from kanna.cli.options import command

if TYPE_CHECKING:
    from rich.console import Console

    from kanna.cli.ui import Terminal


@command("evaluate")
@click.argument("artefact", metavar="MODEL", type=options.MODEL)
@click.option(
    "--reference",
    type=options.MODEL,
    metavar="SRC",
    help="The source the file was made from; needed without --kv-types.",
)
@click.option(
    "--kv-types",
    type=options.NAMES,
    metavar="TYPE,…",
    help=(
        "Judge caches of the file against float16 by depth: q8_0 for keys and values, q8_0:q4_0 "
        "for each."
    ),
)
@click.option("--text", type=options.FILE, help="Text to score. [default: the WikiText-2 test set]")
@click.option(
    "--windows",
    type=click.IntRange(1),
    help=(
        "Windows to score, of 512 tokens. [default: as many as the precision takes, at most 32 of "
        "WikiText-2; with --kv-types one]"
    ),
)
@click.option(
    "--context",
    type=click.IntRange(64),
    help="Tokens of a window. [default: 512; with --kv-types 8192, or as the model was trained]",
)
@options.precision
@options.tasks("What both answer, too")
@options.task_examples
@options.threads
@options.revision
@options.offline
def evaluate_command(
    terminal: Terminal,
    artefact: str,
    tasks: list[str] | None,
    kv_types: list[str] | None,
    **choices: Any,
) -> None:
    """Measure KL divergence, perplexity and top-1 agreement with the source, with 95 % intervals.

    Both models read the same text side by side, the file in its own runtime; the reference runs
    in float32. With --kv-types the file is read with those types of cached keys and values, beside
    itself with float16, to the end of a long context.
    """
    from kanna.evaluation import evaluate

    choices["threads"] = terminal.threads(choices["threads"])
    choices |= {"tasks": tasks or (), "kv_types": kv_types or ()}
    result = evaluate(artefact, progress=terminal.progress(), **choices)
    terminal.result(result, _draw_caches if kv_types else _draw)


def _draw_caches(screen: Console, data: dict[str, Any]) -> None:
    from kanna.cli.ui import notes, table
    from kanna.evaluation.long_context.result import row

    depths = [f"KL at {score['depth']}" for score in data["exact"]["depths"]]
    drawn = table(
        "keys", "values", "cache>", *(f"{d}>" for d in depths), "same at the end>", "needles>"
    )
    for cache in [data["exact"], *data["caches"]]:
        drawn.add_row(*row(cache))
    screen.print(drawn)
    notes(screen, data.get("notes", []))


def _draw(screen: Console, data: dict[str, Any]) -> None:
    from kanna.checks import describe_reference
    from kanna.cli.ui import facts, notes
    from kanna.closeness import describe
    from kanna.tasks.pairing import flip_lines, from_json

    scores = from_json(data.get("tasks", []))

    def with_ci(name: str, scale: float = 1.0, digits: int = 4) -> str:
        value = data.get(name)
        if value is None:
            return ""
        spread = data.get(f"{name}_ci")
        text = f"{value * scale:.{digits}f}"
        if isinstance(spread, (list, tuple)):
            return (
                f"{text}  (95 %: {spread[0] * scale:.{digits}f} to {spread[1] * scale:.{digits}f})"
            )
        return text if spread is None else f"{text}  ± {spread * scale:.{digits}f}"

    facts(
        screen,
        [
            ("Closeness", describe(*(data.get(n) for n in ("kl_mean", "top1", "task_loss")))),
            ("KL divergence, mean", with_ci("kl_mean", digits=6)),
            ("  median", with_ci("kl_median", digits=6)),
            ("  99 %", with_ci("kl_p99", digits=5)),
            ("  99.9 %", with_ci("kl_p999", digits=5)),
            ("Same next token, %", with_ci("top1", 100, 2)),
            ("Perplexity", with_ci("perplexity", digits=3)),
            ("  of the reference", with_ci("reference_perplexity", digits=3)),
            ("  ratio of the two", with_ci("perplexity_ratio", digits=4)),
            ("Reference", data.get("reference", "")),
            ("Reference check", describe_reference(data)),
            ("Positions scored", f"{data['positions']:,}" if data.get("positions") else ""),
            *((f"Task {s.name}", s.words()) for s in scores),
        ],
    )
    for line in flip_lines(scores):
        screen.print(line, markup=False, highlight=False)
    notes(screen, data.get("notes", []))


COMMAND = evaluate_command

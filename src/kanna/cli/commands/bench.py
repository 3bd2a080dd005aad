"""`kanna bench MODEL…`: size, load time, memory, speed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kanna.cli import options, shells
from kanna.cli.options import command

if TYPE_CHECKING:
    from rich.console import Console

    from kanna.cli.ui import Terminal


@command("bench")
@click.argument("artefacts", type=options.MODEL, nargs=-1, required=True, metavar="MODEL...")
@click.option(
    "--repeat",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Rounds; medians are shown, and the slowest and fastest round.",
)
@click.option(
    "--draft",
    type=options.MODEL,
    metavar="MODEL",
    help="A small model of the same vocabulary, or `mtp` for the head that each GGUF has itself: "
    "how many of its guesses each file accepts.",
)
@click.option(
    "--draft-prompts",
    type=options.FILE,
    help="With --draft: a .jsonl file of prompts to write after, one a line, such as `adapt "
    "--draft` leaves beside an adapter.",
)
@click.option(
    "--backend",
    metavar="NAME",
    help="Measure on cpu, cuda, vulkan, metal, opencl, sycl or rocm; a file that does not run "
    "there wholly and rightly is an error.",
)
@options.provider
@click.option(
    "--encodings",
    is_flag=True,
    help="What each encoding costs a token here, at the shapes of MODEL; minutes, the first time.",
)
@click.option(
    "--format",
    metavar="FORMAT",
    shell_complete=shells.format_names,
    help="With --encodings: in whose runtime; gguf, onnx, mlx or openvino. [default: gguf]",
)
@click.option(
    "--export",
    type=options.FILE,
    help="With --encodings: a file for --speeds of `fit` and `optimize` on another machine.",
)
@options.threads
@options.offline
def bench_command(
    terminal: Terminal,
    artefacts: tuple[str, ...],
    repeat: int,
    encodings: bool,
    threads: int | None,
    **choices: Any,
) -> None:
    """Measure file size, load time, peak memory, time to first token and tokens per second.

    Each measurement runs in a process of its own; the files take turns, so a warming machine
    favours none. What takes longer than half a minute is measured once.
    """
    from kanna.benchmark import PATIENCE, bench
    from kanna.benchmark.load import remark

    rows = bench(
        list(artefacts),
        repeat=repeat,
        threads=threads if encodings else terminal.threads(threads),
        encodings=encodings,
        **choices,
        progress=terminal.progress(),
    )
    if encodings:
        terminal.result(rows.to_dict(), _draw_costs)
        return
    for row in rows:
        if row.repeat < repeat:
            terminal.note(
                f"{Path(row.path).name}: measured once, for a round takes longer than "
                f"{PATIENCE:.0f} s"
            )
    if busy := remark(rows[0].busy):
        terminal.note(busy)
    terminal.result({"rows": [row.to_dict() for row in rows]}, _draw)


def _draw(screen: Console, data: dict[str, Any]) -> None:
    from rich.text import Text

    from kanna.cli.ui import table

    measurable = any(row["joules_per_token"] is not None for row in data["rows"])
    left_out = ([] if measurable else ["energy\nJ/tok>"]) + (
        ["load\ns>"] if screen.width < 100 else []
    )
    columns = {name: cell for name, cell in _COLUMNS.items() if name not in left_out}
    made = table("model", *columns)
    # The name is folded before a figure is cut.
    made.columns[0].overflow, made.columns[0].min_width = "fold", 12
    for row in data["rows"]:
        made.add_row(Path(row["path"]).name, *(Text(cell(row)) for cell in columns.values()))
    screen.print(made)
    for row in data["rows"]:
        if (draft := row["draft"]) is not None:
            own = " of its own head" if "computed_by" in draft else ""
            screen.print(
                f"{Path(row['path']).name} accepts {draft['acceptance']:.0%} of "
                f"{draft['drafted']} guesses{own}, {draft['ahead']} at a time: "
                f"{draft['tokens_per_step']:.2f} tokens a step"
            )
    for row in data["rows"]:
        if (proof := row["offload"]) is not None:
            # An execution provider has graphs, a device of llama.cpp its name.
            where = proof.get("devices") or [c["detail"] for c in proof["checks"]]
            ran = "; ".join(where) or "the CPU"
            screen.print(f"{Path(row['path']).name} ran on {proof['backend']}: {ran}")
    screen.print(_energy_note(data["rows"]), style="dim")


def _energy_note(rows: list[dict[str, Any]]) -> str:
    """What energy was counted, or why none was."""
    first = rows[0]["energy"]
    if all(row["joules_per_token"] is not None for row in rows):
        return f"Energy per token: {', '.join(first['counted'])}."
    reasons = ", ".join(["no readable RAPL counter", *first["missing"]])
    return f"Energy per token: not measurable here ({reasons})."


def _draw_costs(screen: Console, data: dict[str, Any]) -> None:
    """A table of encodings for every model."""
    from kanna.cli.ui import table
    from kanna.hardware.encoding_speed import COST_COLUMNS, cost_rows, cost_title

    for costs in data["speeds"]:
        made = table(*COST_COLUMNS)
        for row in cost_rows(costs):
            made.add_row(*row)
        screen.print(made)
        screen.print(f"{cost_title(costs)}.")


def _bytes(name: str) -> Callable[[dict[str, Any]], str]:
    def cell(row: dict[str, Any]) -> str:
        from kanna._util.units import format_size

        return format_size(row[name])

    return cell


def _ranged(name: str) -> Callable[[dict[str, Any]], str]:
    """A median, and below it the slowest and fastest round."""

    def cell(row: dict[str, Any]) -> str:
        from kanna._util.units import with_range

        if not row[name]:
            return "–"  # an encoder generates nothing
        digits = 0 if row[name] >= 100 else 1 if row[name] >= 2 else 2 if row[name] >= 0.1 else 3
        return with_range(row[name], row["spread"][name], digits).replace(" (", "\n(")

    return cell


def _energy(row: dict[str, Any]) -> str:
    from kanna.cli.ui import number

    return number(row["joules_per_token"], 2)


_COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "file>": _bytes("file_bytes"),
    "load\ns>": _ranged("load_s"),
    "peak\nmemory>": _bytes("peak_bytes"),
    "first\ntoken s>": _ranged("ttft_s"),
    "prompt\ntok/s>": _ranged("prompt_tps"),
    "generate\ntok/s>": _ranged("gen_tps"),
    "energy\nJ/tok>": _energy,
}


COMMAND = bench_command

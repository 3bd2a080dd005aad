"""`kanna targets [NAME]`: devices that models are made for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kanna.cli import options, shells
from kanna.cli.options import command

if TYPE_CHECKING:
    from rich.console import Console

    from kanna.cli.ui import Terminal


@command("targets")
@click.argument("name", required=False, metavar="[NAME]", shell_complete=shells.targets)
@click.option(
    "--measure", is_flag=True, help="Measure this machine and add it to the devices as NAME."
)
@click.option(
    "--format",
    metavar="FORMATS",
    shell_complete=shells.format_names,
    help="With --measure: what encodings cost in the runtimes of these formats, by comma: gguf, "
    "onnx, mlx, openvino; minutes each. [default: only what was measured here before]",
)
@click.option(
    "--model",
    type=options.MODEL,
    help="With --format: the model at whose shapes that is. [default: builtin:stories15m]",
)
@click.option(
    "--speeds",
    type=options.FILE,
    help="Costs of encodings that `kanna bench SRC --encodings --export` measured on the device: "
    "`fit` and `optimize` predict its speed by them from then on.",
)
@click.option("--overwrite", is_flag=True, help="Replace the device of that name.")
@options.offline
def targets_command(terminal: Terminal, name: str | None, **choices: Any) -> None:
    """List the devices that --target takes, or show all figures of one with their sources.

    A device has memory, bandwidth and backends, each with the encodings that llama.cpp multiplies
    there. Your own lie in the folder `targets` of the configuration folder; --measure writes one of
    this machine.
    """
    from kanna.devices import targets

    terminal.result(targets(name, **choices, progress=terminal.progress()), _draw)


def _draw(screen: Console, data: dict[str, Any]) -> None:
    from kanna._util.units import format_size
    from kanna.cli.ui import notes, table

    if data["path"]:
        screen.print(f"Wrote {data['path']}", style="bold green")
    listing = table("target", "device", "memory>", "bandwidth>", "backends")
    for device in data["devices"]:
        figures = device["figures"]
        listing.add_row(
            device["name"],
            device["title"],
            format_size(device["memory"]),
            f"{format_size(figures['bandwidth']['value'])}/s",
            ", ".join(device["backends"]),
        )
    screen.print(listing)
    if data["whole"]:
        _draw_profile(screen, data["devices"])
    for costs in data["speeds"]:
        _draw_costs(screen, costs)
    notes(screen, data["notes"])


def _draw_profile(screen: Console, devices: list[dict[str, Any]]) -> None:
    """The devices of a profile: they differ in their memory alone."""
    from kanna import formats
    from kanna.cli.ui import table

    first = devices[0]
    title = first["title"] if len(devices) == 1 else first["title"].rpartition(", ")[0]
    screen.print(f"\n{title}", style="bold cyan")
    figures = table("figure", "value>", "known", "source")
    figures.columns[-1].overflow = "fold"
    for device in devices:
        size = f"{device['name']}: " if len(devices) > 1 else ""
        for name in ("total", "available"):
            figures.add_row(size + name, *_figure(device["figures"][name]))
    for name, one in first["figures"].items():
        if name not in ("total", "available"):
            figures.add_row(name, *_figure(one))
    screen.print(figures)
    for name, backend in first["backends"].items():
        if backend["unavailable"] and not backend["encodings"]:
            screen.print(f"{name}: {backend['unavailable']}")
            if backend["instead"]:
                screen.print(f"  instead: {backend['instead']}", markup=False)
            continue
        others = [format for format in backend["formats"] if format != formats.DEFAULT]
        beside = f"; runs {', '.join(others)}, too" if others else ""
        screen.print(
            f"{name}: weights in {', '.join(backend['encodings'])}; cache in "
            f"{', '.join(backend['cache'])} (llama.cpp's table {backend['operators']}, "
            f"{backend['date']}){beside}"
        )


def _figure(one: dict[str, Any]) -> tuple[str, str, str]:
    value = one["value"]
    shown = f"{value:,}" if isinstance(value, int) else f"{value:g}"
    return shown, one["basis"], one["source"]


def _draw_costs(screen: Console, costs: dict[str, Any]) -> None:
    from kanna.cli.ui import table
    from kanna.hardware.encoding_speed import COST_COLUMNS, cost_rows, cost_title

    made = table(*COST_COLUMNS)
    for row in cost_rows(costs):
        made.add_row(*row)
    screen.print(f"\n{cost_title(costs)}")
    screen.print(made)


COMMAND = targets_command

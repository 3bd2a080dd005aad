"""`kanna runtime …`: builds of llama.cpp for the devices of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kanna.cli import options
from kanna.cli.options import command

if TYPE_CHECKING:
    from rich.console import Console

    from kanna.cli.ui import Terminal


@click.group("runtime")
@options.common_options
def runtime_group() -> None:
    """Build llama.cpp for a GPU, choose which build runs, and see what each finds here.

    Several lie side by side in the cache. KANNA_LLAMACPP=NAME goes before what `use` chose.
    """


@command("list")
def list_command(terminal: Terminal) -> None:
    """Show every build of llama.cpp here, and the devices that each sees."""
    from kanna import runtime

    terminal.result(runtime.list(), _draw_list)


@command("install", when_interrupted="Interrupted: the next install goes on from here.")
@click.argument("runtime", default="llamacpp", metavar="[llamacpp]")
@click.option(
    "--backend",
    default="cpu",
    show_default=True,
    metavar="NAME",
    help="cpu, cuda, vulkan, metal, opencl, sycl or rocm.",
)
@click.option("--native", is_flag=True, help="Compile its code for this CPU, and for no older one.")
@click.option(
    "--source",
    type=options.FILE,
    metavar="FILE",
    help="Source package of llama-cpp-python, or a folder with llama.cpp. [default: the pinned "
    "version, from the package index]",
)
@click.option(
    "--jobs", type=click.IntRange(1), help="Compilers at a time. [default: one per processor]"
)
def install_command(terminal: Terminal, runtime: str, **choices: Any) -> None:
    """Build llama.cpp for a backend into the cache, and prove that it computes there.

    Stopped and started again, it goes on where it was. Needed: cmake, ninja, a C++ compiler, and
    what builds programs for the device; what is absent is named.
    """
    from kanna.runtime import install

    terminal.result(install(runtime, progress=terminal.progress(), **choices), _draw_installed)


@command("use")
@click.argument("name")
def use_command(terminal: Terminal, name: str) -> None:
    """Choose the build that generate, chat, evaluate, verify and bench run from now on.

    NAME is one of `kanna runtime list`, a backend, or auto: what packages bring.
    """
    from kanna.runtime import use

    terminal.result(use(name), _draw_used)


@command("rm")
@click.argument("name")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@options.yes
def rm_command(terminal: Terminal, name: str, dry_run: bool, yes: bool) -> None:
    """Remove a build that was installed."""
    from kanna.runtime import rm

    result = rm(name, dry_run=True)
    if not dry_run:
        terminal.confirm(f"Remove the runtime {name}", result.num_bytes, yes=yes)
        result = rm(name)
    terminal.result(result, _draw_removed)


def _draw_list(screen: Console, data: dict[str, Any]) -> None:
    from kanna._util.units import format_size
    from kanna.cli.ui import table
    from kanna.runtime.inventory import describe

    made = table("runtime", "in use", "version", "size>", "sees")
    made.columns[-1].overflow = "fold"
    for one in data["runtimes"]:
        sees = "; ".join(map(describe, one["devices"]))
        sees = "; ".join(filter(None, (sees, one["remark"])))
        size = format_size(one["num_bytes"]) if one["num_bytes"] else one["kind"]
        made.add_row(one["name"], "yes" if one["in_use"] else "", one["version"], size, sees)
    screen.print(made)
    if not any(one["in_use"] for one in data["runtimes"]):
        chosen = data["choice"] if data["choice"] != "auto" else "nothing"
        screen.print(
            f"In use: {chosen}, which is not here. `kanna runtime use auto` takes another."
        )


def _draw_installed(screen: Console, data: dict[str, Any]) -> None:
    from kanna.cli.ui import checks
    from kanna.runtime.inventory import describe

    if data["offload"]:
        screen.print(checks("check", data["offload"]["checks"]))
    seen = "; ".join(map(describe, data["devices"]))
    screen.print(f"{data['name']} ({data['version']}) sees: {seen or 'nothing'}")
    if data["remark"]:
        screen.print(data["remark"])
    screen.print(f"`kanna runtime use {data['name']}` has other verbs run it.")


def _draw_used(screen: Console, data: dict[str, Any]) -> None:
    screen.print(f"{data['name']} is used from now on.")
    if data["overridden"]:
        screen.print(f"KANNA_LLAMACPP={data['overridden']} goes before it here.")


def _draw_removed(screen: Console, data: dict[str, Any]) -> None:
    from kanna._util.units import format_size

    verb = "Would remove" if data["dry_run"] else "Removed"
    screen.print(f"{verb} {data['name']}: {format_size(data['num_bytes'])}")
    if data["was_in_use"]:
        screen.print("It was in use: what packages bring is used again.")


for _one in (list_command, install_command, use_command, rm_command):
    runtime_group.add_command(_one)
COMMAND = runtime_group

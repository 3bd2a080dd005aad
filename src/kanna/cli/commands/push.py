"""`kanna push DESTINATION MODEL…`: artefacts to a registry or the hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kanna.cli import options
from kanna.cli.options import command

if TYPE_CHECKING:
    from rich.console import Console

    from kanna.cli.ui import Terminal


@command("push", when_interrupted="Interrupted. Run the same command to go on from there.")
@click.argument("destination")
@click.argument("artefacts", metavar="MODEL...", nargs=-1, required=True, type=options.MODEL)
@click.option(
    "--gate",
    multiple=True,
    type=options.FILE,
    help=(
        "Report that `kanna verify --gate` wrote, one per MODEL in their order. "
        "[default: MODEL.gate.json]"
    ),
)
@click.option("--unproved", is_flag=True, help="Push what has no report that all checks passed.")
@click.option(
    "--sign-key",
    type=options.FILE,
    help="A private key (PEM, P-256): the manifests are signed with it.",
)
@click.option("--private", is_flag=True, help="Of the hub: a repository that is made is private.")
@click.option("--revision", help="Of the hub: the branch. [default: main]")
@click.option(
    "--card",
    type=options.FILE,
    help="Of the hub: the model card. [default: the one that compare or optimize wrote]",
)
@click.option(
    "--layout",
    help=(
        "Of registries: modelpack, docker for Docker Model Runner, image for Kubernetes image "
        "volumes and KServe, cnai for RamaLama. [default: modelpack]"
    ),
)
@click.option("--dry-run", is_flag=True, help="Check everything, list what would go, send nothing.")
@options.offline
def push_command(
    terminal: Terminal,
    destination: str,
    artefacts: tuple[str, ...],
    gate: tuple[Path, ...],
    **choices: Any,
) -> None:
    """Push every MODEL to DESTINATION, each with the report of its gate.

    It is oci://HOST/NAME:TAG in a registry, hf:OWNER/NAME on the hub, or a prefix of an object
    store: s3://BUCKET/PREFIX, az://CONTAINER/PREFIX, file:///FOLDER.

    To a registry as CNCF ModelPack, or as --layout says, with gate report, bill of materials and
    signature attached; several MODELs become variants, of which `kanna pull` takes the one that
    fits. To the hub with gate reports and a model card, in one commit. Files that are there are not
    sent again.
    """
    from kanna.packaging.push import push

    result = push(
        destination, list(artefacts), gate=list(gate), progress=terminal.progress(), **choices
    )
    terminal.result(result, _draw)
    terminal.done(result.headline())


def _draw(screen: Console, data: dict[str, Any]) -> None:
    from kanna._util.units import format_size
    from kanna.cli.ui import notes, table

    rows = table("variant", "size", "sent", "memory", "gate")
    for one in data["variants"]:
        rows.add_row(
            one["variant"],
            format_size(one["num_bytes"]),
            "" if one["sent_bytes"] is None else format_size(one["sent_bytes"]),
            format_size(one["memory_bytes"]),
            one["gate"] or "none",
        )
    screen.print(rows)
    if data["files"]:
        listed = table("file", "size")
        for place, size in data["files"].items():
            listed.add_row(place, format_size(size))
        screen.print(listed)
    for line in filter(None, (data["reference"], data["digest"])):
        screen.print(line, soft_wrap=True)
    notes(screen, data["notes"])


COMMAND = push_command

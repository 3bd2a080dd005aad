"""`kanna package MODEL --to TARGET -o FOLDER`: files that deploy an artefact.

`--check` holds them to their word.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kanna.cli import options
from kanna.cli.options import command

if TYPE_CHECKING:
    from rich.console import Console

    from kanna.cli.ui import Terminal


@command("package", when_interrupted="Interrupted. Nothing was written under the final name.")
@click.argument("artefact", metavar="MODEL", type=options.MODEL)
@click.option(
    "-o", "--output", "out", type=options.FILE, help="Folder to write. [required unless --check]"
)
@click.option(
    "--to",
    type=options.NAMES,
    help="By comma: azureml, compose, docker, kubernetes, ollama, ortpackage, systemd. "
    "[default: docker]",
)
@click.option("--name", help="Name of the model in the service. [default: of the file]")
@click.option(
    "--context",
    type=click.IntRange(1),
    help="Tokens of one request. [default: 4096 or what it has]",
)
@click.option(
    "--parallel", type=click.IntRange(1), default=4, show_default=True, help="Requests at once."
)
@click.option(
    "--cpus", type=click.IntRange(1), default=4, show_default=True, help="Cores it is given."
)
@click.option(
    "--image", help="Reference of the image. [default: kanna-NAME, tagged with the file's hash]"
)
@click.option(
    "--wheel",
    type=options.FILE,
    help=(
        "The wheel of kanna to take along, for the machine it will run on. "
        "[default: the one this kanna was installed from]"
    ),
)
@click.option(
    "--sign-key",
    type=options.FILE,
    help="A private key (PEM, P-256): the package is signed with it.",
)
@click.option(
    "--mmproj",
    metavar="FILE",
    help="The vision tower of a GGUF: shipped with it, and served for chats with pictures.",
)
@click.option(
    "--variant",
    multiple=True,
    type=options.MODEL,
    metavar="FOLDER",
    help="With --to ortpackage: a further folder of the same model, for another execution "
    "provider. May be given several times.",
)
@click.option(
    "--selftest", is_flag=True, help="Take along a self-test for devices: selftest.py and its data."
)
@options.offline
@click.option(
    "--check", is_flag=True, help="Hold the package MODEL to its checksums, bill and signature."
)
@click.option("--key", type=options.FILE, help="With --check: the public key of who signed it.")
def package_command(
    terminal: Terminal,
    artefact: str,
    out: Path | None,
    check: bool,
    key: Path | None,
    **choices: Any,
) -> None:
    """Write what deploys a model: files for Docker, Compose, systemd, Kubernetes or Ollama.

    With a bill of materials (CycloneDX), SHA256SUMS, Prometheus alerts and a Grafana dashboard;
    memory by the arithmetic of `kanna fit`. Nothing is overwritten.
    """
    from kanna.errors import UsageError

    if check:
        optional = (
            "to",
            "name",
            "context",
            "image",
            "wheel",
            "sign_key",
            "selftest",
            "mmproj",
            "variant",
        )
        given = ["-o"] * (out is not None) + [
            f"--{k.replace('_', '-')}" for k in optional if choices[k]
        ]
        if given:
            raise UsageError(
                f"--check goes with --key alone, not with {', '.join(given)}",
                expected="kanna package FOLDER --check",
            )
        _check(terminal, Path(artefact), key)
        return
    if key is not None:
        raise UsageError("--key only goes with --check", todo="sign with --sign-key")
    if out is None:
        raise UsageError(
            "no output was named",
            expected="-o FOLDER",
            todo="add -o FOLDER, or --check to look at one",
        )
    from kanna.packaging import package

    choices["to"] = choices["to"] or ["docker"]
    terminal.result(package(artefact, out, progress=terminal.progress(), **choices), _draw)


def _check(terminal: Terminal, folder: Path, key: Path | None) -> None:
    from kanna.packaging import check

    result = check(folder, key=key, progress=terminal.progress())
    terminal.result(result, _draw_check)
    if result.signature == "not checked":
        terminal.note(
            "It is signed: give the public key of who signed it with --key to check that too."
        )


def _draw(screen: Console, data: dict[str, Any]) -> None:
    from kanna._util.units import format_size
    from kanna.cli.ui import facts, notes

    resources = data["resources"]
    processes = resources["process_bytes"]
    facts(
        screen,
        [
            ("folder", data["folder"]),
            ("model", f"{data['name']} ({data['kind']}), sha256:{data['sha256'][:16]}…"),
            ("targets", ", ".join(data["targets"])),
            (
                "memory",
                f"{format_size(resources['memory_bytes'])} = "
                f"({format_size(resources['weight_bytes'])} weights + "
                f"{format_size(resources['kv_bytes'])} cache of "
                f"{resources['parallel']} × {resources['context']} tokens + "
                f"{format_size(resources['buffer_bytes'])} buffers"
                + (f" + {format_size(processes)} processes" if processes else "")
                + ") + 10 %",
            ),
            ("signed", "yes" if data["signed"] else "no"),
        ],
    )
    notes(screen, data["notes"])
    for target, lines in data["usage"].items():
        screen.print(f"\n{target}, in the folder:", style="bold cyan")
        for line in lines:
            screen.print(f"  {line}", soft_wrap=True)


def _draw_check(screen: Console, data: dict[str, Any]) -> None:
    signature = {
        "good": "the signature is good",
        "none": "there is no signature",
        "not checked": "the signature was not checked",
    }[data["signature"]]
    screen.print(
        f"{data['folder']}: {data['files']} files are as they were packaged; {signature}.",
        style="green",
    )


COMMAND = package_command

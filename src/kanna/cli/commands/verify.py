"""`kanna verify SRC FILE`: the gate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kanna.cli import options
from kanna.cli.options import command

if TYPE_CHECKING:
    from rich.console import Console

    from kanna.cli.ui import Terminal

EXIT = {"proved": 0, "failed": 1, "unprovable": 3}


@command("verify")
@click.argument("source", type=options.MODEL, metavar="SRC")
@click.argument("artefact", metavar="[FILE]", type=options.MODEL, required=False)
@click.option(
    "--backend",
    metavar="NAME",
    help="Also run FILE, or SRC where it is alone, on cuda, vulkan, metal, opencl, sycl or rocm: "
    "all of it must be there, and the logits those of the CPU.",
)
@options.provider
@click.option(
    "--adapter",
    multiple=True,
    help="An adapter that was merged into SRC: measure what FILE keeps of its gain. FILE "
    "may be that adapter alone, in GGUF. FOLDER or FOLDER=WEIGHT; may be given several times.",
)
@click.option(
    "--beside",
    type=options.MODEL,
    metavar="BASE",
    help="With an adapter alone: the GGUF of its base that it will lie beside, such as a quantized "
    "one. [default: the base in float32]",
)
@options.held_out
@options.retention
@options.tasks("With --adapter: what it must keep of the fine-tune's gain on these, too")
@options.task_examples
@click.option(
    "--gate",
    metavar="REPORT",
    type=options.FILE,
    help="Write the checks with the hashes of the files to this file, for `kanna push`.",
)
@click.option(
    "--mmproj",
    type=options.MODEL,
    help="The vision tower beside FILE: it is held to SRC as well, and reads a picture with FILE.",
)
@options.threads
@options.revision
@options.offline
def verify_command(
    terminal: Terminal,
    source: str,
    artefact: str | None,
    adapter: tuple[str, ...],
    data: tuple[Any, ...],
    tasks: list[str] | None,
    threads: int | None,
    **choices: Any,
) -> None:
    """Check that FILE, a file or folder, holds the model SRC, and runs.

    Tensors, tokenizer, chat template, end of turn, and logits in the real runtime. How close its
    answers are, `kanna evaluate` measures. With --backend, which tensors and operators run on the
    device.

    Exit code 0: intact. 1: a check failed. 3: it cannot be checked here, and what is missing is
    named.
    """
    from kanna.verification import verify

    result = verify(
        source,
        artefact,
        adapter=list(adapter) or None,
        data=list(data) or None,
        tasks=tasks or (),
        threads=terminal.threads(threads),
        progress=terminal.progress(),
        **choices,
    )
    terminal.result(result, draw_checks)
    click.get_current_context().exit(EXIT[result.status])


def draw_checks(screen: Console, data: dict[str, Any]) -> None:
    """Print every check with its verdict, then the verdict of all."""
    from kanna.cli.ui import checks
    from kanna.tasks.pairing import flip_lines, from_json

    screen.print(checks("check", data["checks"]))
    for line in flip_lines(from_json(data.get("tasks", []))):
        screen.print(line, markup=False, highlight=False)
    vectors = any(check["name"] == "embeddings" for check in data["checks"])
    words = {
        "proved": (
            "green",
            "Intact: it holds the source at its precision, and runs. "
            + ("Above: how close its vectors are." if vectors else _CLOSENESS),
        ),
        "failed": ("bold red", "Failed: do not use it."),
        "unprovable": ("yellow", "Not checkable here: see the checks that could not run."),
    }
    if data.get("offload"):
        words["proved"] = ("green", _ON_DEVICE.format(**data["offload"]))
    style, sentence = words[data["status"]]
    screen.print(sentence, style=style)


_CLOSENESS = "How close its answers are: kanna evaluate."
_ON_DEVICE = "All of it runs on {backend}, and agrees with the CPU."
COMMAND = verify_command
